"""Doubts about an edit, from the accuracies before and after it, by one rule for all methods."""


def doubts(
    *,
    forget: tuple[float, float],
    retain: tuple[float, float],
    num_classes: int,
    whole_classes: bool,
) -> list[str]:
    """Says in words whether a request was not forgotten or damaged the model; else an empty list.

    Whole classes are not forgotten if more than half of their accuracy is left and it exceeds
    chance. Retraining leaves 0, random logits leave chance, and after most methods a class is
    either mostly gone or mostly present.

    A retrained model still recognises samples of retained classes as it does unseen samples. Such
    samples are not forgotten if their accuracy was above that of the retained data, which is a sign
    of memory, and has not fallen at all.

    A model is damaged if a tenth of its retained accuracy or more is lost. Published methods differ
    by a few per cent of it.

    Args:
      forget: accuracy on the forget data before and after, 0 to 1.
      retain: accuracy on the retained data before and after, 0 to 1.
      num_classes: number of classes; chance is its inverse.
      whole_classes: whether whole classes were to be forgotten, not samples.
    """
    found = []
    if whole_classes:
        kept = forget[1] > max(forget[0] / 2, 1 / num_classes)
        why = "more than half is left"
    else:
        kept = retain[0] < forget[0] <= forget[1]
        why = "it has not fallen"
    if kept:
        found.append(
            f"not forgotten: accuracy on what was to be forgotten was {forget[0]:.2%} and is "
            f"{forget[1]:.2%}; {why}. Change the settings, or the method"
        )
    if retain[1] <= 0.9 * retain[0] and retain[0] > 0:
        found.append(
            f"damaged: accuracy on what was to be kept was {retain[0]:.2%} and is "
            f"{retain[1]:.2%}; a tenth or more is lost. Change the settings, or the method"
        )
    return found
