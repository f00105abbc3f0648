"""The space before the head: the head as a model of its own, and random points of that space.

Forgetting a class needs no images. Random embeddings stand for the class that the head predicts for
them ("A universal source-free class unlearning framework via synthetic embeddings", TMLR 2026,
openreview.net/forum?id=Fb2sZ1eoVe). A method that is run on the head and on such embeddings edits
the head alone: the features of real images stay as they are.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ignpx import adapters, targets
from ignpx._support import checks
from ignpx.classifier import Classifier, PyTree
from ignpx.errors import InvalidArgumentError

__all__ = ["NOISES", "Drawn", "check_targeted", "draw", "head_of", "paths", "rejoined"]

# Points that are drawn at once, as in the paper's code, and how often at most.
BATCH, BATCHES = 2000, 500

# What the parameters of a dense layer are, by their axes.
ROLES = {1: "bias", 2: "kernel"}


def __dir__() -> list[str]:
    return __all__


def _bernoulli(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.bernoulli(key, 0.5, shape).astype(jnp.float32)


def _uniform(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    return jax.random.uniform(key, shape, minval=-1.0, maxval=1.0)


# The distributions that the paper's code has.
NOISES = {
    "normal": jax.random.normal,
    "uniform": _uniform,
    "bernoulli": _bernoulli,
    "laplace": jax.random.laplace,
    "gumbel": jax.random.gumbel,
}


def _dense(params: PyTree, inputs: jax.Array) -> jax.Array:
    return inputs @ params["kernel"] + params.get("bias", 0.0)


class Drawn(NamedTuple):
    """Embeddings of each class.

    Attributes:
      inputs: `(K, n, F)` float32; zeros where there were no more of a class.
      found: `(K,)` int32, how many there are of each class, n at most.
    """

    inputs: jax.Array
    found: jax.Array


def head_of(classifier: Classifier) -> Classifier:
    """The head as a classifier of features `(N, F)`, with its parameters `kernel` and `bias`.

    Raises:
      InvalidArgumentError: if the head is no dense layer of features `(N, F)`, or something comes
        after it.
    """
    chosen, _ = _divided(classifier)
    layer = {ROLES[jnp.ndim(leaf)]: leaf for leaf in jax.tree.leaves(chosen)}
    head = Classifier(
        params=layer,
        state={},
        apply=adapters.FunctionApply(_dense),
        input_shape=layer["kernel"].shape[:1],
        num_classes=classifier.num_classes,
    )
    _check_alone(classifier, head)
    return head


def rejoined(classifier: Classifier, head: Classifier) -> Classifier:
    """The classifier with the parameters of an edited head."""
    chosen, rest = _divided(classifier)
    edited = jax.tree.map(
        lambda leaf: head.params[ROLES[jnp.ndim(leaf)]].astype(leaf.dtype), chosen
    )
    return classifier.replace(params=targets.combine(edited, rest))


def check_targeted(classifier: Classifier) -> None:
    """Raises `InvalidArgumentError` if the head is no dense layer, or is not a target."""
    edited, _ = targets.partition(classifier.params, classifier.targets)
    missing = sorted(set(paths(classifier)) - set(targets.paths(edited)))
    if missing:
        raise InvalidArgumentError(
            "classifier.targets",
            classifier.targets,
            f"leave out {missing}, the head, which the method edits; name it in the classifier",
        )


def draw(head: Classifier, key: jax.Array, *, samples: int, noise: str = "normal") -> Drawn:
    """Random embeddings of each class: noise for which the head predicts it.

    Args:
      head: see `head_of`.
      key: PRNG key.
      samples: of each class.
      noise: of `NOISES`, of zero mean and unit scale unless it is `bernoulli` (0 or 1) or `gumbel`.

    Returns:
      As many of each class, or fewer of those that the head hardly ever predicts: no more than a
      million points are drawn. Runs under `jit`.

    Raises:
      InvalidArgumentError: if an argument is out of its range.
    """
    checks.whole(samples=samples)
    checks.one_of(tuple(NOISES), noise=noise)
    shape, classes = head.input_shape, head.num_classes

    def lacks(carry: tuple[jax.Array, Drawn]) -> jax.Array:
        number, drawn = carry
        return (number < BATCHES) & jnp.any(drawn.found < samples)

    def more(carry: tuple[jax.Array, Drawn]) -> tuple[jax.Array, Drawn]:
        number, (inputs, found) = carry
        points = NOISES[noise](jax.random.fold_in(key, number), (BATCH, *shape))
        predicted = jnp.argmax(head.logits(points), axis=-1)
        counted = found + jnp.cumsum(jax.nn.one_hot(predicted, classes, dtype=jnp.int32), axis=0)
        # Those beyond the last place of their class are dropped.
        places = jnp.take_along_axis(counted, predicted[:, None], axis=1)[:, 0] - 1
        inputs = inputs.at[predicted, places].set(points, mode="drop")
        found = jnp.minimum(counted[-1], samples)
        return number + 1, Drawn(inputs, found)

    empty = Drawn(jnp.zeros((classes, samples, *shape)), jnp.zeros(classes, jnp.int32))
    return jax.lax.while_loop(lacks, more, (jnp.int32(0), empty))[1]


def paths(classifier: Classifier) -> list[str]:
    """The paths of the head's parameters.

    Raises:
      InvalidArgumentError: if the head is no dense layer.
    """
    return targets.paths(_divided(classifier)[0])


def _divided(classifier: Classifier) -> tuple[PyTree, PyTree]:
    """The parameters of the head and all others, see `targets.partition`."""
    head, rest = targets.partition(classifier.params, classifier.head())
    found = [ROLES.get(jnp.ndim(leaf)) for leaf in jax.tree.leaves(head)]
    if sorted(found, key=str) not in (["kernel"], ["bias", "kernel"]):
        raise InvalidArgumentError(
            "classifier",
            targets.paths(head),
            "are the parameters of the head; need a dense layer, of a kernel (features, classes) "
            "and at most one bias",
        )
    return head, rest


def _check_alone(classifier: Classifier, head: Classifier) -> None:
    """Raises unless the logits are what the head makes of the features, as far as can be seen."""
    shape = jax.eval_shape(_features, classifier, _inputs(classifier)).shape
    if len(shape) != 2:
        raise InvalidArgumentError(
            "classifier",
            shape,
            "is the shape of the features before the head; need (samples, features)",
        )
    features, made, wanted = _both(classifier, head)
    if isinstance(made, jax.core.Tracer):
        return
    # Of a model that computes in bfloat16 both sides are rounded to that.
    kinds = (one.dtype for one in (features, head.params["kernel"], wanted))
    rounding = max(float(jnp.finfo(kind).eps) for kind in kinds)
    apart = max(1e-3, 4 * rounding) * float(jnp.abs(wanted).max())
    if not np.allclose(np.float32(made), np.float32(wanted), rtol=0, atol=apart):
        raise InvalidArgumentError(
            "classifier", type(classifier.apply), "changes the logits after its last layer"
        )


def _features(classifier: Classifier, inputs: jax.Array) -> jax.Array:
    return classifier.features(inputs)


def _inputs(classifier: Classifier) -> jax.Array:
    return jax.random.normal(jax.random.key(0), (2, *classifier.input_shape))


@jax.jit
def _both(classifier: Classifier, head: Classifier) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Features, their logits by the head, and the logits by the whole model."""
    inputs = _inputs(classifier)
    features = classifier.features(inputs)
    return features, head.logits(features), classifier.logits(inputs)
