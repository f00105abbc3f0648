"""Membership inference from entropies: are forgotten samples recognised as training data?

This is the attack of Chundawat et al. 2023b ("Can Bad Teaching Induce Forgetting?"), which SSD, JiT
and UISPS also report. A model is more confident on its training data, so the entropy of its
prediction separates members from other samples. A classifier of that number is fitted to retained
training samples and test samples, and then applied to the forget samples.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ignpx._support import checks
from ignpx.audit import intervals
from ignpx.audit.attack import CHANCE, Kind, called_members, fit, quality, test_parts
from ignpx.audit.batches import in_batches
from ignpx.audit.contract import Evidence, Finding, Measure, Part
from ignpx.classifier import Classifier
from ignpx.errors import InvalidArgumentError
from ignpx.losses import entropy
from ignpx.samples import Samples, check


class Membership(NamedTuple):
    """The result of the attack on the forget samples.

    Attributes:
      share: share of the forget training samples that the attack calls members, 0 to 1. Lower is
        not better: the value to reach is that of a model retrained without them.
      attack_accuracy: balanced accuracy of the attack on the samples that it was fitted to. Near
        0.5 it cannot separate members from others, and `share` means little.
      flipped: whether the attack takes a higher entropy as a sign of membership. This contradicts
        its idea, and happens if test entropies are below training entropies. None for `svc`, whose
        members may lie in several ranges of entropy.
    """

    share: float
    attack_accuracy: float
    flipped: bool | None


def membership_inference(
    classifier: Classifier,
    *,
    retain_train: Samples,
    test: Samples,
    forget_train: Samples,
    attack: Kind = "logistic",
    batch_size: int = 500,
) -> Membership:
    """Fits the attack to retained training and test samples, and applies it to forget samples.

    A lower share is not better. A model that never saw a class may be confident of it, or may be
    uncertain in a way that shows the forgetting. Compare with the share of a retrained model.

    Args:
      classifier: the attacked model, in evaluation mode.
      retain_train: retained training samples, the members. They are not subsampled.
      test: the whole test set with the forget classes, the non-members. It is not subsampled.
      forget_train: training samples that the model was to forget. No labels are used.
      attack: `logistic` is a logistic regression with balanced classes, as in SSD and JiT. `svc` is
        that of the authors' code, a support vector machine with RBF kernel and C=3. Its time grows
        with the square of the number of samples (minutes for tens of thousands), and it does not
        balance the classes.
      batch_size: images per device call.

    Returns:
      The `Membership`.

    Raises:
      InvalidArgumentError: if a set does not fit the classifier (see `ignpx.samples.check`) or is
        empty, the attack is not known, or the model returns logits that are not finite.
    """
    checks.one_of(("logistic", "svc"), attack=attack)
    sets = {"retain_train": retain_train, "test": test, "forget_train": forget_train}
    sets = {name: check(samples, classifier, name) for name, samples in sets.items()}
    members, others, asked = (
        _finite_entropies(name, classifier, kept, batch_size) for name, kept in sets.items()
    )
    return attacked(members, others, asked, attack)


def attacked(
    members: np.ndarray,
    others: np.ndarray,
    asked: np.ndarray,
    attack: Kind = "logistic",
) -> Membership:
    """Fits the attack to entropies of members and of others, and asks it about more.

    Args:
      members: `(N,)` entropies of training samples.
      others: `(M,)` entropies of other samples.
      asked: `(K,)` entropies of the samples in question.
      attack: see `membership_inference`.
    """
    model = fit(attack, members, others)
    found, mistaken, share = (
        called_members(model, values) / len(values) for values in (members, others, asked)
    )
    flipped = bool(model.coef_[0, 0] > 0) if attack == "logistic" else None
    return Membership(share, (found + 1.0 - mistaken) / 2.0, flipped)


def mia(*, attack: Kind = "logistic") -> Measure:
    """The share of the forgotten training samples that the attack calls members.

    Its value to reach is that of a retrained model. The attack is fitted to all retained training
    samples and all test samples. `details` has `balanced_accuracy` and `auc` on samples that it was
    not fitted to (see `ignpx.audit.attack.quality`), and as `flipped` 1.0 if it takes a higher
    entropy as a sign of membership.

    Args:
      attack: see `membership_inference`.
    """

    def measure(evidence: Evidence) -> Finding:
        def of(*parts: Part) -> np.ndarray:
            logits = [evidence.logits("model", part) for part in parts]
            return np.asarray(entropy(jnp.asarray(np.concatenate(logits))), np.float64)

        members, others, asked = of("retain_train"), of(*test_parts(evidence)), of("forget_train")
        details = quality(attack, members, others, evidence.seed)
        found = attacked(members, others, asked, attack)
        if found.flipped is not None:
            details["flipped"] = float(found.flipped)
        ends = intervals.of_share(round(found.share * len(asked)), len(asked))
        return Finding(found.share, *ends, details)

    return Measure(
        measure,
        title="Membership inference",
        paper="Chundawat et al. 2023b; SSD, JiT, UISPS",
        needs=("retain_train", "retain_test", "forget_train"),
        unit="share",
        low=0.0,
        high=1.0,
        better="retrained",
        beside=CHANCE,
    )


def entropies(classifier: Classifier, samples: Samples, *, batch_size: int = 500) -> np.ndarray:
    """Shannon entropy of the predicted distribution of each sample, in nats.

    Args:
      classifier: evaluated in evaluation mode.
      samples: images as the classifier's `preprocess` takes them; the labels are not used.
      batch_size: images per device call; changes the result by rounding only.

    Returns:
      `(N,)` float64 with float32 accuracy, 0 to log(num_classes). It is not a number for a sample
      whose logits are not finite, except that a logit of `-inf` is allowed: a probability of zero.

    Raises:
      InvalidArgumentError: if the samples do not fit the classifier (see `ignpx.samples.check`),
        or the batch size is not a whole number of at least 1.
    """
    samples = check(samples, classifier)
    return in_batches(_entropies, classifier, samples.images, batch_size).astype(np.float64)


@jax.jit
def _entropies(classifier: Classifier, images: jax.Array) -> jax.Array:
    return entropy(classifier.logits(classifier.preprocess(images)))


def _finite_entropies(
    name: str, classifier: Classifier, samples: Samples, batch_size: int
) -> np.ndarray:
    values = entropies(classifier, samples, batch_size=batch_size)
    if not np.all(np.isfinite(values)):
        raise InvalidArgumentError(
            name,
            f"{np.sum(~np.isfinite(values))} of {len(values)} entropies not finite",
            "the model breaks down on these samples; restore a sound checkpoint",
        )
    return values
