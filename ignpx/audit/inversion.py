"""Model inversion: what of a class can be read back out of a model, as pictures and as numbers.

The idea is that of MI-Face (Fredrikson, Jha and Ristenpart, "Model Inversion Attacks that Exploit
Confidence Information and Basic Countermeasures", CCS 2015, Algorithm 1): descend on the input
until the model is sure of the class. Papers on unlearning show the pictures and leave it at that.
Here an independent classifier, the judge, says what they show.

Three things differ from MI-Face. It minimises `1 - p`, whose gradient vanishes where the model is
sure of another class, and we the cross-entropy, whose gradient does not. We add total variation as
a prior for images. And we start from noise, several times for a class, where it starts from zeros.
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
from ignpx.classifier import Classifier, check_handle
from ignpx.data.preprocessing import Normalise
from ignpx.errors import InvalidArgumentError


class Inversion(NamedTuple):
    """Reconstructions of K classes, n of each, and how good they are.

    Attributes:
      images: `(K, n, *input_shape)` float32, preprocessed as the attacked model takes them.
      confidence: `(K,)` float32, mean probability that the attacked model gives the class. Low
        where the descent did not get there.
      judged: `(K,)` float32, share of the reconstructions that the judge takes for the class. High
        only where the model gave away something that another model of the class knows as well; a
        model that forgot the class should come down to what a retrained one gives.
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

    Inputs are kept within the values that an image can have, where the preprocessing tells them.

    Args:
      classifier: the attacked model, in evaluation mode; unchanged.
      judge: a classifier of the same classes that owes nothing to the attacked one, and knows those
        that were forgotten: the same architecture trained from another seed, say. Where the two
        differ in their `ignpx.data.Normalise`, reconstructions are converted for it.
      key: PRNG key of the noise.
      classes: ids of the classes to reconstruct, in the order of the result; all by default.
      samples: reconstructions of each class.
      steps: optimisation steps.
      learning_rate: of Adam, in units of preprocessed inputs.
      total_variation: weight of the image prior, the geometric mean over the reconstructions of a
        class (see `ignpx.synthesis.total_variation`); 0 leaves it out.

    Returns:
      See `Inversion`.

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
    conversion = _conversion(classifier, judge)
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
    judged = _judged(judge, made.inputs, made.labels, conversion)
    return Inversion(*(np.asarray(part) for part in (made.inputs, made.confidence, judged)))


# The same objects for the same values, so that a second call finds what the first one compiled.
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
    """From the inputs of one model to those of another, by way of intensities; hashable."""

    source: Normalise
    target: Normalise

    def __call__(self, inputs: jax.Array) -> jax.Array:
        mean, std = (jnp.asarray(v, jnp.float32) for v in (self.target.mean, self.target.std))
        return (self.source.inverse(inputs) - mean) / std


def _conversion(classifier: Classifier, judge: Classifier) -> _Conversion | None:
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
def _judged(
    judge: Classifier,
    inputs: jax.Array,
    labels: jax.Array,
    conversion: Callable[[jax.Array], jax.Array] | None,
) -> jax.Array:
    inputs = inputs if conversion is None else conversion(inputs)
    logits = judge.logits(inputs.reshape(-1, *judge.input_shape))
    answers = jnp.argmax(logits, axis=-1).reshape(inputs.shape[:2])
    return jnp.mean(answers == labels[:, None], axis=1)
