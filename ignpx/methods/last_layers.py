"""EU-k and CF-k, Goel et al., "Evaluating inexact unlearning requires revisiting forgetting", 2022.

All but the last k layers of the model are frozen. CF-k ("catastrophically forgetting") goes on
training the last ones on the retained data; EU-k ("exact unlearning") trains them from scratch.
"""

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp

from ignpx import _xla, adapters, targets, training
from ignpx._support import checks
from ignpx.classifier import Apply, Classifier, PyTree
from ignpx.descent import DescentInfo
from ignpx.errors import InvalidArgumentError
from ignpx.methods.finetune import finetune
from ignpx.request import Forgets, Request, Sees
from ignpx.training.recipe import Recipe
from ignpx.unlearner import Changes, Unlearner

Unit = Literal["layer", "tensor"]


def cf_k(
    *,
    k: int = 2,
    unit: Unit = "layer",
    epochs: int = 10,
    learning_rate: float = 1e-4,
    optimizer: Literal["adam", "sgd"] = "adam",
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    final_share: float = 1.0,
    batch_size: int = 128,
    crop_padding: int = 0,
    flip: bool = False,
) -> Unlearner:
    """Builds the CF-k unlearner: `finetune` of the last k layers.

    Layers are counted from the output, in the order in which the model calls them. What is called
    after the first of them, such as its bias or its batch norm, is trained with it. Frozen layers
    do not change at all: their batch norm normalises by its running statistics, and leaves them.

    Learning rate and optimiser are those of the Top-K paper, which trains until convergence,
    without a schedule; the epochs are those of SCRUB's public code, which has SGD at 0.01 and
    trains the last block of the network only, its classifier frozen.

    Args:
      k: how many layers to train.
      unit: `layer` counts convolutions and dense layers, whatever `tensor` counts parameter arrays,
        as the Top-K paper must have: its sizes of EU-5 and EU-10 are those of the last 5 and 10
        arrays. For ResNet18 two layers are five arrays.
      epochs: over the retained data.
      learning_rate: see `finetune`, as for the following.
      optimizer: `adam` or `sgd`.
      momentum: of `sgd`.
      weight_decay: added to the gradient, as PyTorch does.
      final_share: the share of the learning rate that a cosine decay ends at; 1 leaves it constant.
      batch_size: samples a step.
      crop_padding: random crops, see `ignpx.training.recipe.Recipe`.
      flip: random mirroring.

    Raises:
      InvalidArgumentError: if an argument is out of its range, or the model has fewer layers.
    """
    checks.whole(k=k)
    checks.one_of(("layer", "tensor"), unit=unit)
    tune = finetune(
        epochs=epochs,
        learning_rate=learning_rate,
        optimizer=optimizer,
        momentum=momentum,
        weight_decay=weight_decay,
        final_share=final_share,
        batch_size=batch_size,
        crop_padding=crop_padding,
        flip=flip,
    ).unlearn

    def unlearn(
        classifier: Classifier, request: Request, key: jax.Array
    ) -> tuple[Classifier, DescentInfo]:
        tail = last_layers(classifier, k, unit)
        tuned, info = tune(_opened(classifier, tail), request, key)
        return _closed(classifier, tuned), info

    return Unlearner(Sees.RETAIN, unlearn, Changes.ALL, Forgets.ANY)


def eu_k(
    recipe: Recipe | dict[str, Any] | None = None,
    *,
    k: int = 2,
    unit: Unit = "layer",
    validation_share: float = 0.1,
) -> Unlearner:
    """Builds the EU-k unlearner, which newly initialises the last k layers and trains them.

    See `cf_k` for what is frozen. The running statistics of the last layers start anew, too.

    Args:
      recipe: how to train, the original's recipe for a fair comparison. By default the Top-K
        paper's Adam at 1e-4, for 50 epochs, without weight decay or a schedule.
      k: how many layers to train.
      unit: `layer` or `tensor`, see `cf_k`.
      validation_share: share of the retained data that picks the best epoch, in (0, 1).

    Returns:
      An `Unlearner` that needs a classifier which knows how it is initialised.

    Raises:
      InvalidArgumentError: if an argument is out of its range, or the model has fewer layers.
    """
    checks.whole(k=k)
    checks.one_of(("layer", "tensor"), unit=unit)
    if recipe is None:
        recipe = Recipe(
            epochs=50,
            optimizer="adam",
            learning_rate=1e-4,
            weight_decay=0.0,
            schedule="constant",
        )
    train = training.validated_training(recipe, validation_share)

    def unlearn(
        classifier: Classifier, request: Request, key: jax.Array
    ) -> tuple[Classifier, DescentInfo]:
        init_key, split_key, train_key = jax.random.split(key, 3)
        tail = last_layers(classifier, k, unit)
        fresh = classifier.fresh(init_key)
        reset = classifier.replace(
            params=_where(tail.params, fresh.params, classifier.params),
            state=_where(tail.state, fresh.state, classifier.state),
        )
        trained, info = train(_opened(reset, tail), request.retain_data, split_key, train_key)
        return _closed(classifier, trained), info

    return Unlearner(Sees.RETAIN, unlearn, Changes.ALL, Forgets.ANY)


class Tail(NamedTuple):
    """The last layers of a model, as paths of its parameters and of its state."""

    params: frozenset[str]
    state: frozenset[str]


def last_layers(classifier: Classifier, k: int, unit: Unit) -> Tail:
    """What a model uses from its k-th last layer on, or from its k-th last parameter array.

    Raises:
      InvalidArgumentError: if there are fewer.
    """
    inputs = jax.ShapeDtypeStruct((1, *classifier.input_shape), jnp.float32)
    trees = {"params": classifier.params, "state": classifier.state}
    uses = _xla.uses(lambda trees, x: classifier.replace(**trees).logits(x), trees, inputs)
    split = [use.path.partition("/") for use in uses]
    places = [place for place, (tree, _, _) in enumerate(split) if tree == "params"]
    starts = places
    if unit == "layer":
        kernels = ("dot_general", "conv_general_dilated")
        starts = [place for place in places if uses[place].operation in kernels]
    if k > len(starts):
        raise InvalidArgumentError(
            "k", k, f"the model has only {len(starts)} {unit}s; give fewer, or use finetune"
        )
    begin = starts[-k]
    # Batch norm applies its statistics before its scale: they go with what comes after them.
    after = max((place for place in places if place < begin), default=-1)
    return Tail(
        frozenset(path for tree, _, path in split[begin:] if tree == "params"),
        frozenset(path for tree, _, path in split[after + 1 :] if tree == "state"),
    )


def _where(chosen: frozenset[str], tree: PyTree, other: PyTree) -> PyTree:
    """The leaves of a tree at these paths, and those of another, or None, elsewhere."""
    leaves, structure = jax.tree.flatten(tree)
    others = [None] * len(leaves) if other is None else jax.tree.leaves(other)
    each = zip(targets.paths(tree), leaves, others, strict=True)
    return jax.tree.unflatten(structure, [a if path in chosen else b for path, a, b in each])


def _opened(classifier: Classifier, tail: Tail) -> Classifier:
    """A classifier whose parameters are those of the tail, and whose state has all others.

    Nothing that trains a classifier changes them, differentiates them or decays them then.
    """
    rest = frozenset(targets.paths(classifier.params)) - tail.params
    chosen, frozen = (_where(side, classifier.params, None) for side in (tail.params, rest))
    apply: Any = classifier.apply
    if held := frozenset(targets.paths(classifier.state)) - tail.state:
        if not hasattr(apply, "holding"):
            raise InvalidArgumentError(
                "classifier", apply, "has state, and no method `holding` to freeze a part of it"
            )
        apply = apply.holding(held)
    return classifier.replace(
        params=chosen,
        state={"frozen": frozen, "state": classifier.state},
        apply=_TailApply(apply),
    )


def _closed(classifier: Classifier, opened: Classifier) -> Classifier:
    """The classifier with the parameters and state of its opened form."""
    params = targets.combine(opened.params, opened.state["frozen"])
    return classifier.replace(params=params, state=opened.state["state"])


@dataclasses.dataclass(frozen=True)
class _TailApply:
    """A model some of whose parameters are in its state."""

    apply: Apply

    def computing_in(self, precision: str) -> "_TailApply":
        # Around the model, so that what is in the state is cast, too.
        return _TailApply(adapters.computing_in(self.apply, precision))

    def __call__(
        self, params: PyTree, state: PyTree, inputs: jax.Array, *, train: bool
    ) -> tuple[jax.Array, PyTree]:
        params = targets.combine(params, state["frozen"])
        logits, after = self.apply(params, state["state"], inputs, train=train)
        return logits, {**state, "state": after}
