"""Calibrated membership of single samples: the likelihood ratio attack, LiRA, and U-LiRA.

The attacker needs the logits of the model, its architecture, samples of which some were trained on,
and time to train shadow models on random halves of all of them. For each sample it compares how the
shadows that had the sample answer with how the others answer. The attack is that of Carlini et al.
(arXiv 2112.03570, Algorithm 1, online):

    phi = log(p_y / (1 - p_y))
    score = log N(phi; mu_in, sigma_in^2) - log N(phi; mu_out, sigma_out^2)

with the means and deviations of phi over the shadows with the sample and without it. With fewer
than 64 shadows the deviations are those of all samples together, as that paper advises. If each
shadow is unlearned before it is asked, the attack is U-LiRA (Hayes et al., arXiv 2403.01218), whose
attacker knows the method: was the sample unlearned, or never trained on?

Four points differ from the papers. The members are training samples of the forgotten class and the
others its test samples, and every shadow has half of both. All shadows forget the class, those
without the sample, too, since a class is forgotten as a whole: the score is about the sample alone.
The shadows are small: they are trained on a part of the other samples, and for a few epochs. And
phi has its median over the samples subtracted in every model, the attacked one, too: a constant
that is added to the logit changes nothing, and shadows need not be as confident as the model.
"""

import functools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ignpx import _xla, descent, losses
from ignpx._support import checks
from ignpx.audit import batches, intervals
from ignpx.audit.attacks import common
from ignpx.audit.contract import Evidence, Finding, Measure, NotMeasuredError, Part, at_least
from ignpx.classifier import Classifier, PyTree
from ignpx.errors import InvalidArgumentError, UnlearningError, UnlearningWarning
from ignpx.request import Request
from ignpx.samples import Samples, joined, taken
from ignpx.unlearner import Unlearner, by_name, unlearn

# From here on each sample has deviations of its own (Carlini et al.).
ENOUGH_SHADOWS = 64
# Of members and of others, the least that an area says anything for.
FEWEST = 10
PARTS: tuple[Part, ...] = ("forget_train", "forget_test")
RATES = {"1_percent": 0.01, "0.1_percent": 0.001}
# Beyond every logit; a probability of zero is as good as this.
FARTHEST = 1e4


class Settings(NamedTuple):
    """The settings of `lira`, where they are described."""

    method: str | None
    shadows: int
    samples: int
    others: int
    epochs: int
    batch_size: int
    learning_rate: float
    at_once: int

    def check(self) -> None:
        """Raises `InvalidArgumentError` for a value that is out of its range."""
        checks.whole(
            **{
                name: getattr(self, name)
                for name in ("shadows", "samples", "others", "epochs", "batch_size", "at_once")
            }
        )
        checks.positive(learning_rate=self.learning_rate)
        if self.shadows < 4 or self.shadows % 2:
            raise InvalidArgumentError(
                "shadows", self.shadows, "must be even and at least 4: half of them have a sample"
            )

    def unlearner(self) -> Unlearner | None:
        """The method that the attacker knows, with its defaults, and the recipe of the shadows."""
        recipe = {
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "optimizer": "adam",
            "learning_rate": self.learning_rate,
            "weight_decay": 0.0,
            "schedule": "constant",
        }
        return None if self.method is None else by_name(self.method, {}, recipe)


class Shadows(NamedTuple):
    """What the shadows say of the samples in question.

    Attributes:
      confidences: `(S, K)` phi of each shadow and sample, with the median of each shadow at 0.
      held: `(S, K)` bool, whether the shadow was trained on the sample.
    """

    confidences: np.ndarray
    held: np.ndarray


def confidences(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """`phi = log(p_y / (1 - p_y))`, less its median over the samples.

    Args:
      logits: `(N, C)`.
      labels: `(N,)` class ids.

    Returns:
      `(N,)` float64.
    """
    odds = -losses.negative_log_odds(jnp.asarray(logits), jnp.asarray(labels))
    phi = np.clip(np.asarray(odds, np.float64), -FARTHEST, FARTHEST)
    return phi - np.median(phi)


def scores(confidences: np.ndarray, shadows: Shadows) -> np.ndarray:
    """The logarithm of the likelihood ratio of each sample, `(K,)` float64.

    Args:
      confidences: `(K,)` of the attacked model.
      shadows: at least two with each sample, and two without it.
    """
    ratio = np.zeros(len(confidences))
    for sign, chosen in ((1, shadows.held), (-1, ~shadows.held)):
        count = chosen.sum(axis=0)
        mean = np.sum(shadows.confidences * chosen, axis=0) / count
        squares = np.sum(np.square(shadows.confidences - mean) * chosen, axis=0)
        if len(chosen) < ENOUGH_SHADOWS:
            variance = squares.sum() / (count - 1).sum()
        else:
            variance = squares / (count - 1)
        variance = np.maximum(variance, np.finfo(np.float32).eps)
        ratio -= sign * (np.square(confidences - mean) / variance + np.log(variance)) / 2
    return ratio


def roc(members: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The ROC curve: the rates of false and of true positives at each threshold.

    Args:
      members: `(N,)` scores.
      others: `(M,)` scores.

    Returns:
      Both `(T,)`, rising from 0 to 1.
    """
    thresholds = np.unique(np.concatenate([members, others]))[::-1]
    rates = [
        np.searchsorted(np.sort(-one), -thresholds, side="right") / len(one)
        for one in (others, members)
    ]
    false, true = (np.concatenate([[0.0], rate]) for rate in rates)
    return false, true


def halves(rng: np.random.Generator, shadows: int, count: int) -> np.ndarray:
    """Which shadow has which sample, `(shadows, count)` bool, for even numbers of both.

    Every shadow has half of the samples, and every sample is had by half of the shadows: of two
    shadows in turn the second has what the first has not.
    """
    held = np.zeros((shadows, count), bool)
    for pair in range(0, shadows, 2):
        held[pair, rng.permutation(count)[: count // 2]] = True
        held[pair + 1] = ~held[pair]
    return held


def train(
    classifier: Classifier, pool: Samples, held: np.ndarray, key: jax.Array, settings: Settings
) -> list[Classifier]:
    """Trains all shadows in one call, mapped over their keys and their halves.

    Args:
      classifier: of the architecture; its parameters do not matter.
      pool: N samples.
      held: `(S, N)` bool, see `halves`.
      key: PRNG key.
      settings: epochs of Adam, its batches and learning rate, and the shadows that are mapped over
        at once, which bounds the memory.

    Returns:
      The shadows, in their order.
    """
    own = jnp.asarray(np.stack([np.flatnonzero(one) for one in held]))
    loss = descent.CrossEntropy.of(classifier)
    run = _trained(
        loss,
        descent.optimizer("adam", settings.learning_rate),
        settings.epochs,
        settings.batch_size,
        min(settings.at_once, len(held)),
    )
    keys = jax.random.split(key, len(held))
    params, state = jax.device_get(run(classifier, jax.device_put(pool), own, keys))
    return [
        classifier.replace(
            **jax.tree.map(lambda leaf, at=at: leaf[at], {"params": params, "state": state})
        )
        for at in range(len(held))
    ]


@_xla.cached
def _trained(
    loss: descent.CrossEntropy, optimizer: Any, epochs: int, batch_size: int, at_once: int
) -> Callable[..., tuple[PyTree, PyTree]]:
    def run(
        classifier: Classifier, pool: Samples, own: jax.Array, keys: jax.Array
    ) -> tuple[PyTree, PyTree]:
        def one(shadow: tuple[jax.Array, jax.Array]) -> tuple[PyTree, PyTree]:
            own, key = shadow
            init_key, order_key, step_key = jax.random.split(key, 3)
            fresh = classifier.fresh(init_key)
            order = descent.batches(order_key, len(own), batch_size, epochs)
            carry = descent.start(fresh.params, fresh.state, optimizer)
            carry, _ = descent.descend(loss, optimizer, carry, pool, own[order], step_key)
            return carry.params, carry.state

        # `jax.vmap` over so many shadows at a time.
        return jax.lax.map(one, (own, keys), batch_size=at_once)

    return jax.jit(run)


def lira(
    *,
    method: str | None = None,
    shadows: int = 16,
    samples: int = 300,
    others: int = 1400,
    epochs: int = 8,
    batch_size: int = 64,
    learning_rate: float = 2e-3,
    at_once: int = 16,
) -> Measure:
    """The area under the ROC curve of the likelihood ratio: members of the class against others.

    Members are training samples of the forgotten classes, the others test samples of theirs. To a
    model that never saw the class they are alike, so that the area to reach is 1/2. Its interval is
    Newcombe's over the samples, for these shadows. `details` has as `tpr_at_1_percent` and
    `tpr_at_0.1_percent` the rate of true positives at so many false positives at most, with the
    bootstrap's interval over members and others. A rate of 1 % takes at least 100 test samples of
    the class, one of 0.1 % at least 1,000. Where there are fewer, or `samples` is below, `details`
    has the number that is needed, `needed_for_0.1_percent`, in place of the rate. `arrays` have the
    curve as `false_positives` and `true_positives`, and as `others` the number of samples behind
    its false positives.

    The shadows are trained once for all models of an architecture that are compared.

    Args:
      method: name of the method that the attacker knows, with its defaults: each shadow is
        unlearned by it, one after another (U-LiRA). None asks the shadows as they are (LiRA).
      shadows: an even number of at least 4. The papers have 64 to 256.
      samples: members at most, and as many others at most, drawn at random.
      others: training samples of the retained classes at most, for the shadows alone.
      epochs: of Adam, of each shadow.
      batch_size: of a step.
      learning_rate: of Adam.
      at_once: shadows that are trained side by side; memory against speed; the result differs
        by rounding.
    """
    settings = Settings(
        method, shadows, samples, others, epochs, batch_size, learning_rate, at_once
    )
    settings.check()
    unlearner = settings.unlearner()

    def measure(evidence: Evidence) -> Finding:
        common.classes(evidence)
        count = min(samples, *(len(evidence.labels(part)) for part in PARTS))
        at_least("samples of the class in forget_train and in forget_test", count, FEWEST)
        rng = np.random.default_rng(evidence.seed)
        places = {part: rng.permutation(len(evidence.labels(part)))[:count] for part in PARTS}
        asked = joined(*(taken(evidence.samples(part), at) for part, at in places.items()))
        logits = [evidence.logits("model", part)[at] for part, at in places.items()]
        key = ("lira", _architecture(evidence.model), evidence.seed, settings)
        known = evidence.once(key, lambda: _shadows(evidence, asked, settings, unlearner, rng))
        found = scores(confidences(np.concatenate(logits), asked.labels), known)
        return _finding(found[:count], found[count:], evidence.seed)

    return Measure(
        measure,
        title="Membership by likelihood ratio",
        paper="Carlini et al. 2022 (arXiv 2112.03570); Hayes et al. 2024 (arXiv 2403.01218)",
        needs=("forget_train", "retain_train", "forget_test"),
        unit="share",
        low=0.0,
        high=1.0,
        better="retrained",
        null=0.5,
    )


def _shadows(
    evidence: Evidence,
    asked: Samples,
    settings: Settings,
    unlearner: Unlearner | None,
    rng: np.random.Generator,
) -> Shadows:
    """Trains the shadows on halves of the samples in question and of others, and asks them."""
    # An even number of all: of members and others there are as many.
    rest = evidence.samples("retain_train")
    rest = common.drawn(rest, min(settings.others, len(rest.labels)) // 2 * 2, rng)
    pool = joined(asked, rest)
    held = halves(rng, settings.shadows, len(pool.labels))
    key = jax.random.key(evidence.seed)
    models = train(evidence.model, pool, held, key, settings)
    if unlearner is not None:
        # Other keys than those of the training, which are the first ones that are folded in.
        keys = jax.random.split(jax.random.fold_in(key, settings.shadows), settings.shadows)
        models = [
            _unlearned(unlearner, model, taken(pool, np.flatnonzero(had)), evidence, one)
            for model, had, one in zip(models, held, keys, strict=True)
        ]
    logits = [batches.logits(one, asked.images, evidence.batch_size) for one in models]
    found = np.stack([confidences(of_one, asked.labels) for of_one in logits])
    return Shadows(found, held[:, : len(asked.labels)])


def _architecture(model: Classifier) -> tuple[Any, ...]:
    """What tells models apart of which different shadows are trained."""
    leaves, tree = jax.tree.flatten((model.params, model.state))
    shapes = tuple((leaf.shape, str(leaf.dtype)) for leaf in leaves)
    return model.apply, model.initialise, model.preprocess, tree, shapes


def _unlearned(
    unlearner: Unlearner, model: Classifier, had: Samples, evidence: Evidence, key: jax.Array
) -> Classifier:
    gone = np.isin(had.labels, evidence.classes)
    request = Request.classes(
        evidence.classes,
        model.num_classes,
        forget_data=taken(had, np.flatnonzero(gone)),
        retain_data=taken(had, np.flatnonzero(~gone)),
    )
    with warnings.catch_warnings():
        # What the method doubts of a shadow is no matter of the model that is measured.
        warnings.simplefilter("ignore", UnlearningWarning)
        try:
            return unlearn(unlearner, model, request, key)[0]
        except UnlearningError as error:
            raise NotMeasuredError("method", "failed on a shadow", str(error)) from error


def true_positives(
    members: np.ndarray, others: np.ndarray, allowed: int, axis: int = -1
) -> np.ndarray:
    """The rate of true positives at the threshold that so many others exceed at most.

    Args:
      members: `(..., N)` scores.
      others: `(..., M)` scores.
      allowed: false positives, fewer than M.
      axis: the last one, as `intervals.of_statistic` gives it.
    """
    threshold = np.sort(others, axis=axis)[..., -1 - allowed]
    return np.mean(members > threshold[..., None], axis=axis)


def _finding(members: np.ndarray, others: np.ndarray, seed: int) -> Finding:
    details: dict[str, float] = {}
    for name, rate in RATES.items():
        allowed = int(rate * len(others) + 1e-9)
        if not allowed:
            details[f"needed_for_{name}"] = float(round(1 / rate))
            continue
        statistic = functools.partial(true_positives, allowed=allowed)
        details[f"tpr_at_{name}"] = float(statistic(members, others))
        ends = intervals.of_statistic(statistic, [members, others], seed)
        details |= dict(zip((f"tpr_at_{name}_low", f"tpr_at_{name}_high"), ends, strict=True))
    false, true = roc(members, others)
    arrays = {"false_positives": false, "true_positives": true, "others": np.array(len(others))}
    return Finding(*intervals.of_auc(members, others), details, arrays)
