"""Project: take the directions of what is forgotten out of what layers read."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ignpx._support import checks
from ignpx.classifier import Classifier, PyTree
from ignpx.errors import InvalidArgumentError, UnlearningError
from ignpx.gradients import directions, subspaces
from ignpx.request import Request, Sees
from ignpx.steps.contract import State, Step
from ignpx.targets import as_patterns, partition, paths
from ignpx.unlearner import Changes


class Shown(NamedTuple):
    """Inputs by which classes are told apart.

    Attributes:
      inputs: `(N, *input_shape)`, preprocessed.
      labels: `(N,)` class ids.
    """

    inputs: jax.Array
    labels: jax.Array


class Projected(NamedTuple):
    """The report of `project`.

    Attributes:
      strengths: by the path of each layer, `()` share of the directions that was taken out of it.
      ranks: by path, the number of directions.
    """

    strengths: dict[str, jax.Array]
    ranks: dict[str, jax.Array]

    def check(self, request: Request) -> None:
        """Raises if a strength is not finite, or no layer has a direction."""
        strengths = np.asarray(list(self.strengths.values()))
        if not np.all(np.isfinite(strengths)):
            broken = [path for path, one in self.strengths.items() if not np.isfinite(one)]
            raise UnlearningError(f"the inputs of {', '.join(broken)} are not finite")
        if not any(np.asarray(rank) > 0 for rank in self.ranks.values()):
            raise UnlearningError(
                "no layer reads the forgotten classes by a direction that the retained ones lack: "
                "each has fewer inputs than there are retained classes, or reads the same for all "
                "of them; widen targets"
            )

    def summary(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return {
            "projected": {path: float(one) for path, one in self.strengths.items()},
            "projected_ranks": {path: int(one) for path, one in self.ranks.items()},
        }


def project(
    shown: Callable[[State, jax.Array], Shown] | None = None,
    *,
    strength: float = 1.0,
    targets: tuple[str, ...] | None = None,
    sees: Sees = Sees.NOTHING,
) -> Step:
    """Projects the kernels of layers off the forget directions: `W <- W - s D D^T W`.

    D is an orthonormal basis of the mean inputs of the forgotten classes beside those of the
    retained ones (`ignpx.gradients.directions`), of the model as it comes to this step.

    Args:
      shown: maps the state and a key to the inputs whose means are taken; by default the weighed
        examples.
      strength: in (0, 1]. Times the separability of the two sides along D, which is small in early
        layers and large in late ones, it is s.
      targets: patterns of the layers that may be edited; the classifier's own `targets` by default.
        Layers whose inputs cannot be observed stay as they are (see `subspaces.layers`); the report
        names those that were projected.
      sees: the data of the request that `shown` takes.

    Raises:
      InvalidArgumentError: if an argument is out of its range.
    """
    checks.share(strength=strength)
    if targets is not None:
        targets = as_patterns(targets)

    def edited_layers(classifier: Classifier) -> list[subspaces.Layer]:
        patterns = classifier.targets if targets is None else targets
        chosen, _ = partition(classifier.params, patterns)
        return [one for one in subspaces.layers(classifier) if one.path in set(paths(chosen))]

    def check(classifier: Classifier) -> None:
        if not edited_layers(classifier):
            raise InvalidArgumentError(
                "targets",
                classifier.targets if targets is None else targets,
                "hold no layer whose inputs can be observed: a dense kernel, or that of a "
                "convolution without groups",
            )

    def run(state: State, key: jax.Array, _: Any) -> tuple[State, Projected]:
        inputs, labels = _examples(state) if shown is None else shown(state, key)
        classifier, request = state.classifier, state.request
        chosen = {layer.path: layer for layer in edited_layers(classifier)}
        sides = request.forget, request.retain
        found = _found(classifier, inputs, labels, *sides, tuple(chosen))
        strengths = {path: strength * found[path].separability for path in chosen}
        ranks = {path: subspaces.rank(found[path].basis) for path in chosen}
        leaves, structure = jax.tree.flatten(classifier.params)

        def off(path: str, leaf: jax.Array) -> jax.Array:
            if path not in chosen:
                return leaf
            return _off(chosen[path], leaf, found[path].basis, strengths[path])

        moved = map(off, paths(classifier.params), leaves)
        params = jax.tree.unflatten(structure, list(moved))
        return state.replace(classifier=classifier.replace(params=params)), Projected(
            strengths, ranks
        )

    changes = Changes.TARGETS if targets is None else Changes.TARGETS | Changes.OTHER_LAYERS
    return Step("edit", run, sees=sees, changes=changes, check=check)


class _Found(NamedTuple):
    """Of a layer: its directions `(d, C)`, and how far apart they hold both sides."""

    basis: jax.Array
    separability: jax.Array


@functools.partial(jax.jit, static_argnums=5)
def _found(
    classifier: Classifier,
    inputs: jax.Array,
    labels: jax.Array,
    forget: jax.Array,
    retain: jax.Array,
    wanted: tuple[str, ...],
) -> dict[str, _Found]:
    member = jax.nn.one_hot(labels, len(forget), axis=0)
    weights = member / jnp.maximum(member.sum(axis=1, keepdims=True), 1.0)
    means = subspaces.mean_inputs(classifier, inputs, weights)
    bases = {path: directions.of_classes(means[path], forget, retain) for path in wanted}
    along = subspaces.coordinates(classifier, inputs, bases)
    return {
        path: _Found(
            bases[path], directions.separability(along[path], forget[labels], retain[labels])
        )
        for path in bases
    }


def _off(
    layer: subspaces.Layer, kernel: PyTree, basis: jax.Array, strength: jax.Array
) -> jax.Array:
    matrix = layer.matrix(kernel)
    exact = jax.lax.Precision.HIGHEST
    read = jnp.matmul(basis.T, matrix, precision=exact)
    moved = matrix - strength * jnp.matmul(basis, read, precision=exact)
    return layer.kernel(moved).astype(kernel.dtype)


def _examples(state: State) -> Shown:
    return Shown(*state.need("examples", "steps.synthesise").flat())
