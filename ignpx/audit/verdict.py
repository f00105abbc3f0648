"""What accuracies before and after say against an edit, by one rule for every method."""


def doubts(
    *,
    forget: tuple[float, float],
    retain: tuple[float, float],
    num_classes: int,
    whole_classes: bool,
) -> list[str]:
    """What speaks against calling a request served, in words; nothing if nothing does.

    Not forgotten: of whole classes, if more than half of the accuracy is left, and it exceeds
    chance. Retraining leaves none, random logits leave chance, and between methods a class is
    either mostly gone or mostly there; a half tells the two apart. Samples of classes that stay are
    still recognised by a retrained model as unseen samples are. They are not forgotten if their
    accuracy was above that of the retained data, which tells memory, and has not fallen at all.

    Damaged: if a tenth of the retained accuracy or more is lost. Published methods differ by a few
    per cent of it.

    Args:
      forget: accuracy on what was to be forgotten, before and after, 0 to 1.
      retain: accuracy on what was to be kept, before and after, 0 to 1.
      num_classes: of the classifier; chance is its inverse.
      whole_classes: whether classes were to be forgotten, or samples.
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
