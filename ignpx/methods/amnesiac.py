"""Amnesiac unlearning, Graves et al., "Amnesiac machine learning", AAAI 2021: both its methods.

`amnesiac` is the one that other papers compare with under this name: fine-tuning on all of the
data, the forget set under wrong labels. `amnesiac_subtract` is the one that the paper is named
after: the updates of the steps that saw the forget classes are subtracted from the trained model,
`theta <- theta - sum over those steps of their update`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ignpx import descent, training
from ignpx._support import checks
from ignpx.classifier import Classifier
from ignpx.descent import DescentInfo
from ignpx.errors import InvalidArgumentError, UnlearningError
from ignpx.request import Forgets, Request, Sees
from ignpx.samples import Samples, joined
from ignpx.steps import Course, State, Step, chain, descend
from ignpx.training.recipe import Recipe
from ignpx.unlearner import Changes, Unlearner


def amnesiac(*, epochs: int = 3, learning_rate: float = 1e-4, batch_size: int = 128) -> Unlearner:
    """Builds the relabelling unlearner, which sees the forget set and the retained data.

    Each forget sample gets one wrong label for good, and the model is fine-tuned by Adam on all of
    the data, in training mode. The defaults are those of the code of SSD and of others who compare
    with it; the original has batches of 256.

    The wrong label is uniform on the classes to keep, other than the sample's own: with one forget
    class that is any other, and with several none that is to be forgotten, too, where the public
    code is silent.

    Args:
      epochs: over all of the data.
      learning_rate: of Adam.
      batch_size: samples a step; the last batch of an epoch is filled up.

    Raises:
      InvalidArgumentError: if an argument is out of its range.
    """
    checks.whole(epochs=epochs, batch_size=batch_size)
    optimizer = descent.optimizer("adam", learning_rate)

    def course(state: State, key: jax.Array) -> Course:
        label_key, order_key, key = jax.random.split(key, 3)
        forget = state.forget_data
        labels = descent.wrong_labels(label_key, jnp.asarray(forget.labels), state.request.retain)
        samples = joined(Samples(forget.images, labels), state.retain_data)
        rows = descent.batches(order_key, len(samples.labels), batch_size, epochs, whole=True)
        loss = descent.CrossEntropy.of(state.classifier)
        return Course(loss, optimizer, samples, rows, key)

    return chain(descend(course, sees=Sees.BOTH), forgets=Forgets.ANY)


class Subtracted(NamedTuple):
    """The report of the subtraction.

    Attributes:
      known: whether the ledger has the classes of the request as one of its sets.
      share: of all training steps, those that were taken back.
    """

    known: jax.Array
    share: jax.Array

    def check(self, request: Request) -> None:
        """Raises if the ledger has no such set."""
        if not self.known:
            raise UnlearningError(
                f"the ledger keeps no account of the classes {np.flatnonzero(request.forget)} "
                "together; name them among the sets of `training.fit_with_ledger`"
            )

    def doubts(self, request: Request) -> list[str]:
        """Whether most of the training was taken back."""
        if self.share <= 0.5:
            return []
        return [
            f"{float(self.share):.0%} of the training steps saw the forget classes and were taken "
            "back; smaller batches, or batches by class, would spare some"
        ]

    def summary(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return {"steps_taken_back": float(self.share)}


def amnesiac_subtract(
    *,
    ledger: training.Ledger | None = None,
    recipe: Recipe | dict[str, Any] | None = None,
) -> Unlearner:
    """Builds the unlearner that takes back the updates of the steps that saw the forget classes.

    With a ledger it sees no data, and nothing is trained. Account has to be kept from the start of
    the training on, by `training.fit_with_ledger`.

    Without one it replays a training: it trains a new model by a recipe on all of the data, keeps
    account of the forget classes, and returns that model without their updates. It is what a holder
    of a ledger would get who had trained with another seed, at the price of a training, and its
    result owes nothing to the parameters that it is given.

    Batches that are drawn from all classes nearly all hold a sample of each: with ten classes and
    batches of 128, all but one in a million. Then nearly the whole training is subtracted, and what
    is left is little but the initialisation; `info` says and warns how much it was. The method
    supposes that what is to be forgotten came in few batches. Batch-norm statistics stay those of
    the trained model.

    Args:
      ledger: what `training.fit_with_ledger` returned beside the classifier.
      recipe: how to train without a ledger, for all its epochs (there is no early stopping); 200
        epochs of SGD at 0.01 with cosine decay by default.

    Returns:
      An `Unlearner` that without a ledger needs a classifier which knows how it is initialised.

    Raises:
      InvalidArgumentError: if both are given, or the ledger is not one, or a field of the recipe
        cannot be used, or its schedule needs validation.
    """
    if ledger is not None:
        if recipe is not None:
            raise InvalidArgumentError("recipe", recipe, "is for a replay; give it or a ledger")
        if not isinstance(ledger, training.Ledger):
            raise InvalidArgumentError(
                "ledger",
                ledger,
                "must be what `training.fit_with_ledger` returns; without one, "
                "leave it out to replay a training",
            )
        return chain(subtract(lambda state: ledger))
    if recipe is None:
        recipe = Recipe(epochs=200)
    recipe = Recipe.of(recipe)
    training.check_needs_no_validation(recipe)

    def replay(state: State, key: jax.Array, _: Any) -> tuple[State, DescentInfo]:
        init_key, key = jax.random.split(key)
        samples = joined(state.forget_data, state.retain_data)
        fresh, sets = state.classifier.fresh(init_key), state.request.forget[None]
        trained, losses, kept = training.fit_with_ledger(fresh, samples, recipe, key, sets)
        extra = {**state.extra, "ledger": kept}
        return state.replace(classifier=trained, extra=extra), DescentInfo(losses.ravel())

    return chain(
        Step("descent", replay, sees=Sees.BOTH, changes=Changes.ALL),
        subtract(lambda state: state.extra["ledger"]),
    )


def subtract(ledger_of: Callable[[State], training.Ledger]) -> Step:
    """Takes back the updates that a ledger keeps account of, see `amnesiac_subtract`."""

    def run(state: State, key: jax.Array, _: Any) -> tuple[State, Subtracted]:
        ledger = ledger_of(state)
        _check_fits(ledger, state.classifier)
        edited, report = _subtract(ledger, state.classifier, state.request.forget)
        return state.replace(classifier=edited), report

    return Step("subtraction", run, changes=Changes.TARGETS | Changes.OTHER_LAYERS)


@jax.jit
def _subtract(
    ledger: training.Ledger, classifier: Classifier, forget: jax.Array
) -> tuple[Classifier, Subtracted]:
    same = (ledger.sets == forget[None]).all(axis=1)
    known, which = jnp.any(same), jnp.argmax(same)

    def leaf(value: jax.Array, updates: jax.Array) -> jax.Array:
        less = value.astype(jnp.float32) - updates[which]
        return jnp.where(known, less.astype(value.dtype), value)

    edited = classifier.replace(params=jax.tree.map(leaf, classifier.params, ledger.updates))
    share = ledger.steps[which] / ledger.total
    return edited, Subtracted(known, share)


def _check_fits(ledger: training.Ledger, classifier: Classifier) -> None:
    kept = jax.tree.map(lambda leaf: leaf.shape[1:], ledger.updates)
    had = jax.tree.map(lambda leaf: leaf.shape, classifier.params)
    if kept != had or ledger.sets.shape[1] != classifier.num_classes:
        raise InvalidArgumentError(
            "ledger", kept, "is of another model; give the one that this classifier's training kept"
        )
