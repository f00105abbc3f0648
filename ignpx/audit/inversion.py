"""Model inversion: reconstructs images of a class from a model, and has them judged.

The idea is that of MI-Face (Fredrikson, Jha and Ristenpart, "Model Inversion Attacks that Exploit
Confidence Information and Basic Countermeasures", CCS 2015, Algorithm 1): descend on the input
until the model is confident of the class. Papers on unlearning only show the images. Here an
independent classifier, the judge, classifies them, which gives a number.

Three points differ from MI-Face. MI-Face minimises `1 - p`, whose gradient vanishes if the model is
confident of another class; this module minimises the cross-entropy, whose gradient does not. It
adds total variation as a prior for images. It starts from noise, several times for each class;
MI-Face starts from zeros.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ignpx import synthesis
from ignpx._support import checks
from ignpx.audit import intervals
from ignpx.audit.contract import Evidence, Finding, Measure, NotMeasuredError
from ignpx.classifier import Classifier, check_handle
from ignpx.data.preprocessing import Normalise
from ignpx.errors import InvalidArgumentError


class Inversion(NamedTuple):
    """Reconstructions of K classes, n of each, and figures of their quality.

    Attributes:
      images: `(K, n, *input_shape)` float32, preprocessed for the attacked model.
      confidence: `(K,)` float32, mean probability that the attacked model gives the class. It is
        low if the descent failed.
      judged: `(K,)` float32, share of the reconstructions that the judge classifies as the class.
        It is high only if the reconstructions show features that another model knows, too. For a
        model that forgot the class, the value to reach is that of a retrained model.
    """

    images: np.ndarray
    confidence: np.ndarray
    judged: np.ndarray


def invert(
    classifier: Classifier,
    judge: Classifier,
    key: jax.Array,
    *,
    classes: Sequence[int] | None = None,
    samples: int = 10,
    steps: int = 500,
    learning_rate: float = 0.05,
    total_variation: float = 1.0,
) -> Inversion:
    """Reconstructs classes from a model by Adam on its inputs, and has them judged.

    Inputs are kept within the values of an image if the classifier has `bounds`.

    Args:
      classifier: the attacked model, in evaluation mode; unchanged.
      judge: a classifier of the same classes that was trained independently and knows the forgotten
        classes, for example the same architecture trained from another seed. If the two have
        different `ignpx.data.Normalise`, the reconstructions are converted for the judge.
      key: PRNG key of the noise.
      classes: ids of the classes to reconstruct, in the order of the result; all by default.
      samples: number of reconstructions of each class.
      steps: optimisation steps.
      learning_rate: learning rate of Adam, in units of preprocessed inputs.
      total_variation: weight of the image prior, the geometric mean over the reconstructions of a
        class (see `ignpx.synthesis.total_variation`); 0 leaves it out.

    Returns:
      The `Inversion`.

    Raises:
      InvalidArgumentError: if an argument is out of its range, or the judge does not take the same
        inputs to the same number of classes.
    """
    checks.whole(samples=samples, steps=steps)
    checks.positive(learning_rate=learning_rate)
    checks.not_negative(total_variation=total_variation)
    key = checks.prng_key(key=key)
    check_handle(classifier)
    check_handle(judge, "judge")
    conversion = conversion_between(classifier, judge)
    made = synthesis.synthesise(
        classifier,
        key,
        terms=_terms(total_variation),
        samples=samples,
        steps=steps,
        optimizer=_adam(learning_rate),
        bounds=classifier.bounds,
        labels=_labels(classes, classifier.num_classes),
    )
    judged = judged_shares(judge, made.inputs, made.labels, conversion)
    return Inversion(*(np.asarray(part) for part in (made.inputs, made.confidence, judged)))


# Cached, so that equal settings give the same objects and compile once.
@functools.lru_cache(maxsize=16)
def _terms(total_variation: float) -> tuple[synthesis.Term, ...]:
    reach = synthesis.cross_entropy()
    return (reach, synthesis.total_variation(total_variation)) if total_variation else (reach,)


@functools.lru_cache(maxsize=16)
def _adam(learning_rate: float) -> optax.GradientTransformation:
    return optax.adam(learning_rate)


def _labels(classes: Sequence[int] | None, num_classes: int) -> jax.Array:
    every = range(num_classes)
    chosen = checks.class_ids("classes", every if classes is None else classes, num_classes)
    if not chosen:
        raise InvalidArgumentError("classes", chosen, "name at least one class")
    if len(set(chosen)) < len(chosen):
        raise InvalidArgumentError("classes", chosen, "names a class twice; name each once")
    return jnp.asarray(np.array(chosen, np.int32))


class _Conversion(NamedTuple):
    """Converts the inputs of one model to those of another, through intensities; hashable."""

    source: Normalise
    target: Normalise

    def __call__(self, inputs: jax.Array) -> jax.Array:
        mean, std = (jnp.asarray(v, jnp.float32) for v in (self.target.mean, self.target.std))
        return (self.source.inverse(inputs) - mean) / std


def conversion_between(classifier: Classifier, judge: Classifier) -> _Conversion | None:
    for field in ("input_shape", "num_classes"):
        theirs, ours = getattr(judge, field), getattr(classifier, field)
        if theirs != ours:
            raise InvalidArgumentError(
                f"judge.{field}", theirs, f"the attacked model has {ours}; judge by one like it"
            )
    source, target = classifier.preprocess, judge.preprocess
    if source == target:
        return None
    if isinstance(source, Normalise) and isinstance(target, Normalise):
        return _Conversion(source, target)
    raise InvalidArgumentError(
        "judge.preprocess",
        target,
        f"differs from that of the attacked model, {source!r}, and only from one "
        "ignpx.data.Normalise to another is it known how to convert; give both the same",
    )


@functools.partial(jax.jit, static_argnames="conversion")
def judged_shares(
    judge: Classifier,
    inputs: jax.Array,
    labels: jax.Array,
    conversion: Callable[[jax.Array], jax.Array] | None,
) -> jax.Array:
    inputs = inputs if conversion is None else conversion(inputs)
    logits = judge.logits(inputs.reshape(-1, *judge.input_shape))
    answers = jnp.argmax(logits, axis=-1).reshape(inputs.shape[:2])
    return jnp.mean(answers == labels[:, None], axis=1)


def inversion(
    *,
    samples: int = 10,
    steps: int = 500,
    learning_rate: float = 0.05,
    total_variation: float = 1.0,
) -> Measure:
    """The share of the reconstructions of the forgotten classes in which the judge sees the class.

    Its interval is Wilson's over the reconstructions, which start from independent noise. The value
    to reach is that of a retrained model. `judged_retain` is the same of all other classes: if
    it is low, too, the attack fails on this model, and the value says nothing.

    Args:
      samples: number of reconstructions of each class.
      steps: see `invert`, as for all further settings.
      learning_rate: learning rate of Adam, in units of preprocessed inputs.
      total_variation: weight of the image prior.
    """
    checks.whole(samples=samples)

    def measure(evidence: Evidence) -> Finding:
        if not evidence.classes:
            raise NotMeasuredError("classes", (), "no class was forgotten as a whole to be shown")
        found = invert(
            evidence.model,
            evidence.classifier("judge"),
            jax.random.key(evidence.seed),
            samples=samples,
            steps=steps,
            learning_rate=learning_rate,
            total_variation=total_variation,
        )
        gone = np.isin(np.arange(evidence.model.num_classes), evidence.classes)
        successes = round(float(found.judged[gone].sum()) * samples)
        total = int(gone.sum()) * samples
        details = {"confidence": float(found.confidence[gone].mean())}
        if not gone.all():
            details["judged_retain"] = float(found.judged[~gone].mean())
        return Finding(
            successes / total,
            *intervals.of_share(successes, total),
            details=details,
            arrays={"images": found.images},
        )

    return Measure(
        measure,
        title="Model inversion",
        paper="Fredrikson et al. 2015",
        needs=("judge",),
        unit="share",
        low=0.0,
        high=1.0,
        better="retrained",
    )
