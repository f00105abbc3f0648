"""Training that keeps account of what it changed in the steps that saw certain classes."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ignpx._support import checks
from ignpx.classifier import Classifier, PyTree, check_handle
from ignpx.errors import InvalidArgumentError
from ignpx.samples import Samples
from ignpx.training import epochs
from ignpx.training.recipe import Recipe


class Ledger(NamedTuple):
    """What training changed in the steps that saw certain classes, to be subtracted later.

    Attributes:
      sets: `(G, num_classes)` bool, the sets of classes that account was kept of.
      updates: for each set, the sum of the updates of all steps whose batch held a sample of it: a
        pytree like the parameters, float32, with a leading axis G.
      steps: `(G,)` the number of those steps.
      total: `()` the number of all steps.
    """

    sets: jax.Array
    updates: PyTree
    steps: jax.Array
    total: jax.Array


def fit_with_ledger(
    classifier: Classifier, samples: Samples, recipe: Recipe, key: jax.Array, sets: jax.Array
) -> tuple[Classifier, jax.Array, Ledger]:
    """As `fit`, and keeps account of the updates, for `methods.amnesiac_subtract`.

    Sums by class would not do for several: a batch that holds two of them would count twice.

    Args:
      classifier: where to start; unchanged.
      samples: images as the classifier's `preprocess` takes them, kept on the device.
      recipe: see `Recipe`; with a schedule that needs no validation, `cosine` or `constant`.
      key: PRNG key of the permutations and the augmentation.
      sets: `(G, num_classes)` bool, each row a set of classes that may have to be forgotten
        together: `jnp.eye(num_classes, dtype=bool)` for any single one. Each takes the memory of
        another copy of the parameters.

    Returns:
      The classifier, the training losses `(epochs, steps)`, and the ledger.

    Raises:
      InvalidArgumentError: if the samples do not fit the classifier (see `ignpx.samples.check`),
        the key is no PRNG key, the sets are of something else, or the schedule needs validation.
      UnlearningError: if the training diverged.
    """
    check_handle(classifier)
    masks = isinstance(sets, np.ndarray | jax.Array) and sets.dtype == bool
    if not (masks and sets.shape[1:] == (classifier.num_classes,)):
        raise InvalidArgumentError(
            "sets",
            checks.shortened(sets),
            f"must be a bool array of rows of {classifier.num_classes}, the classes",
        )
    carry, losses = epochs.run(
        classifier,
        samples,
        recipe,
        key,
        wrap=functools.partial(_with_ledger, sets=len(sets)),
        extra_args={"sets": sets},
    )
    account = carry.opt_state[-1]
    ledger = Ledger(sets, account.updates, account.steps, jnp.int32(losses.size))
    return classifier.replace(params=carry.params, state=carry.state), losses, ledger


@functools.lru_cache(maxsize=64)
def _with_ledger(
    optimizer: optax.GradientTransformation, sets: int
) -> optax.GradientTransformation:
    return optax.chain(optimizer, ledger(sets))


class Account(NamedTuple):
    """The state of `ledger`.

    Attributes:
      updates: for each set of classes, the sum of the updates of the steps whose batch held a
        sample of one of them: a pytree like the parameters, float32, with a leading axis of sets.
      steps: `(sets,)` the number of those steps.
    """

    updates: PyTree
    steps: jax.Array


@functools.lru_cache(maxsize=64)
def ledger(count: int) -> optax.GradientTransformationExtraArgs:
    """Keeps an `Account` of the final updates, which it passes on as they are; chained last.

    `sets`, one of `descend`'s `extra_args`, is a `(count, num_classes)` bool array, whose rows
    are sets of classes. The data are `Samples`. Memory is that of `count` copies of the parameters.
    """

    def init(params: PyTree) -> Account:
        sums = jax.tree.map(lambda leaf: jnp.zeros((count, *leaf.shape), jnp.float32), params)
        return Account(sums, jnp.zeros(count, jnp.int32))

    def update(
        updates: PyTree,
        state: Account,
        params: PyTree = None,
        *,
        batch: Samples,
        sets: jax.Array,
        **_: Any,
    ) -> tuple[PyTree, Account]:
        held = sets[:, batch.labels].any(axis=1)

        def add(total: jax.Array, leaf: jax.Array) -> jax.Array:
            counts = held.reshape(count, *[1] * leaf.ndim)
            return total + jnp.where(counts, leaf.astype(jnp.float32), 0.0)

        sums = jax.tree.map(add, state.updates, updates)
        return updates, Account(sums, state.steps + held)

    return optax.GradientTransformationExtraArgs(init, update)
