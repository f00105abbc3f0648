"""Boundary Shrink and Boundary Expand, Chen et al., "Boundary unlearning", CVPR 2023.

Both shift the decision boundary of the forget samples by tuning the model to other labels for them.
Shrinking takes the class across the nearest boundary: with an attack on the old model f_0,

    x_adv = x + epsilon * sign(dCE(f_0(x), y)/dx),    y' = argmax f_0(x_adv),

the model is tuned on `CE(f(x), y')`. Expanding adds a logit for a class that does not exist, tunes
the forget samples to it, and drops it again.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ignpx import adversarial, descent, targets
from ignpx._support import checks
from ignpx.classifier import Apply, Classifier, PyTree
from ignpx.errors import InvalidArgumentError, UnlearningError
from ignpx.request import Forgets, Request, Sees
from ignpx.steps import Course, State, Step, chain, descend
from ignpx.unlearner import Unlearner


class Crossed(NamedTuple):
    """The report of `cross`.

    Attributes:
      crossed: share of the forget samples that the attack took to another class.
    """

    crossed: jax.Array

    def check(self, request: Request) -> None:
        """Raises if no sample crossed a boundary."""
        if not self.crossed > 0:
            raise UnlearningError(
                "the attack took none of the forget samples to another class, so that they were "
                "trained to the labels that they have; raise epsilon"
            )

    def summary(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return {"crossed": float(self.crossed)}


def boundary_shrink(
    *,
    attack: Literal["fgsm", "pgd"] = "fgsm",
    epsilon: float = 0.1,
    attack_step: float = 8 / 255,
    attack_steps: int = 5,
    epochs: int = 10,
    learning_rate: float = 1e-5,
    momentum: float = 0.9,
    batch_size: int = 64,
) -> Unlearner:
    """Builds the Boundary Shrink unlearner, which sees the forget set alone.

    The defaults are those of the authors' code. Before its attack, that code undoes another
    normalisation than the one that it applied, so that its steps are about 0.25 long rather than
    0.1: with `epsilon=0.25` it is followed more closely. The model is attacked in evaluation mode,
    once, and tuned in training mode.

    A sample whose attack fails keeps its label, as in the authors' code, and is trained to it;
    `info` has the share of the others. A new label may be any class, another one to be forgotten
    included.

    Args:
      attack: `fgsm`, or `pgd` in several steps.
      epsilon: the largest change of a pixel, in intensities of 0 to 1, or in the units of the
        inputs where the classifier's `preprocess` has no scale (see `ignpx.adversarial`).
      attack_step: length of a step of `pgd`, in the units of `epsilon`.
      attack_steps: number of steps of `pgd`.
      epochs: epochs over the forget set.
      learning_rate: learning rate of SGD. SalUn's comparison searches it from 1e-8 up.
      momentum: momentum of SGD.
      batch_size: samples a step; the last batch of an epoch is filled up.

    Raises:
      InvalidArgumentError: if an argument is out of its range.
    """
    checks.one_of(("fgsm", "pgd"), attack=attack)
    checks.positive(epsilon=epsilon, attack_step=attack_step)
    checks.whole(attack_steps=attack_steps)
    attacking = functools.partial(adversarial.fgsm, epsilon=epsilon)
    if attack == "pgd":
        attacking = functools.partial(
            adversarial.pgd, epsilon=epsilon, step_size=attack_step, steps=attack_steps
        )
    return chain(
        cross(attacking),
        tune(epochs, learning_rate, momentum, batch_size),
        forgets=Forgets.ANY,
        keys=lambda key: [key, key],
    )


def boundary_expand(
    *,
    epochs: int = 10,
    learning_rate: float = 1e-5,
    momentum: float = 0.9,
    batch_size: int = 64,
) -> Unlearner:
    """Builds the Boundary Expand unlearner, which sees the forget set alone.

    The defaults are those of the authors' code. The weights of the additional logit are drawn from
    Xavier's uniform distribution for the widened layer; its bias, if the layer has one, is zero,
    which is our reading. All parameters are tuned with it, in training mode.

    The model has to end in a linear layer whose kernel has the classes as its last axis, a dense
    one or a convolution. It is found by where it is used, not by its name.

    Args:
      epochs: over the forget set.
      learning_rate: of SGD. SalUn's comparison looks for it from 1e-8 up.
      momentum: of the same.
      batch_size: samples a step; the last batch of an epoch is filled up.

    Returns:
      An `Unlearner` that raises `InvalidArgumentError` for a model with another end.

    Raises:
      InvalidArgumentError: if an argument is out of its range.
    """

    def keys(key: jax.Array) -> list[jax.Array]:
        column_key, key = jax.random.split(key)
        return [column_key, key, key]

    return chain(
        Step("expansion", expand, sees=Sees.FORGET),
        tune(epochs, learning_rate, momentum, batch_size),
        contract,
        forgets=Forgets.ANY,
        keys=keys,
    )


def cross(attack: Callable[..., adversarial.Adversarial]) -> Step:
    """Gives the forget samples the labels that an attack takes them to."""

    def run(state: State, key: jax.Array, _: Any) -> tuple[State, Crossed]:
        classifier = state.classifier

        def one_batch(images: jax.Array, labels: jax.Array) -> adversarial.Adversarial:
            inputs = classifier.preprocess(images)
            return attack(classifier, inputs, labels, bounds=classifier.bounds)

        outcome = adversarial.in_batches(one_batch, *state.forget_data)
        return state.relabelled(outcome.predicted), Crossed(jnp.mean(outcome.success))

    return Step("attack", run, sees=Sees.FORGET)


def tune(epochs: int, learning_rate: float, momentum: float, batch_size: int) -> Step:
    """Descends on the forget samples under the labels that they have by now."""
    checks.whole(epochs=epochs, batch_size=batch_size)
    optimizer = descent.optimizer("sgd", learning_rate, momentum=momentum)

    def course(state: State, key: jax.Array) -> Course:
        order_key, key = jax.random.split(key)
        samples = state.forget_data
        rows = descent.batches(order_key, len(samples.labels), batch_size, epochs, whole=True)
        return Course(descent.CrossEntropy.of(state.classifier), optimizer, samples, rows, key)

    return descend(course, sees=Sees.FORGET)


def expand(state: State, key: jax.Array, _: Any) -> tuple[State, None]:
    """Adds a logit, and gives the forget samples the class that it stands for."""
    classifier, forget = state.classifier, state.forget_data
    expanded = _expanded(classifier, key)
    _check_linear(expanded, classifier.preprocess(jnp.asarray(forget.images[:1])))
    beyond = np.full(len(forget.labels), classifier.num_classes, np.int32)
    return state.replace(classifier=expanded).relabelled(beyond), None


def contract(state: State) -> State:
    """Drops the logit that `expand` has added."""
    expanded: Any = state.classifier
    contracted = expanded.replace(
        params=expanded.params["model"],
        apply=expanded.apply.apply,
        num_classes=expanded.num_classes - 1,
    )
    return state.replace(classifier=contracted)


@dataclasses.dataclass(frozen=True)
class _Expanded:
    """A model with one logit more, an `Apply`.

    Its parameters are those of the `model`, and the `column` that its head would have besides: a
    pytree like the head, without the axis of the classes. No array grows, as Linen modules accept
    none but of their own shapes. Where the logits are linear in the head, they change by
    `features @ column` in a direction that has the column in place of the first class's, and zeros
    elsewhere. That derivative takes no second pass through the layers before the head.
    """

    apply: Apply
    head: tuple[str, ...]

    def __call__(
        self, params: PyTree, state: PyTree, inputs: jax.Array, *, train: bool
    ) -> tuple[jax.Array, PyTree]:
        """See `ignpx.classifier.Apply`."""
        head, rest = targets.partition(params["model"], self.head)

        def logits(head: PyTree) -> tuple[jax.Array, PyTree]:
            return self.apply(targets.combine(head, rest), state, inputs, train=train)

        direction = _direction(head, params["column"])
        known, change, state = jax.jvp(logits, (head,), (direction,), has_aux=True)
        return jnp.concatenate([known, change[:, :1]], axis=-1), state


def _direction(head: PyTree, column: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf, one: jnp.zeros_like(leaf).at[..., 0].set(one), head, column)


def _expanded(classifier: Classifier, key: jax.Array) -> Classifier:
    names = classifier.head()
    head, _ = targets.partition(classifier.params, names)

    def column(leaf: jax.Array) -> jax.Array:
        if leaf.ndim == 1:
            return jnp.zeros((), leaf.dtype)
        *positions, features, classes = leaf.shape
        limit = math.sqrt(6 / (math.prod(positions) * (features + classes + 1)))
        return jax.random.uniform(key, leaf.shape[:-1], leaf.dtype, -limit, limit)

    return classifier.replace(
        params={"model": classifier.params, "column": jax.tree.map(column, head)},
        apply=_Expanded(classifier.apply, names),
        num_classes=classifier.num_classes + 1,
    )


def _check_linear(expanded: Classifier, inputs: jax.Array) -> None:
    """Raises if the column alone, as the first class's, does not give the additional logit."""
    apply = expanded.apply
    assert isinstance(apply, _Expanded)
    added, error = _column_alone(expanded, inputs)
    # Wide enough for bfloat16; not a number fails as well.
    if not error <= 0.05 * added:
        raise InvalidArgumentError(
            "classifier",
            " and ".join(apply.head),
            "its logits are not linear in these parameters, each in its own column, so that no "
            "logit can be added; give a model that ends in a dense layer or a convolution",
        )


@jax.jit
def _column_alone(expanded: Classifier, inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sizes: of the additional logit, and of what it lacks of a head of zeros but the column."""
    apply: Any = expanded.apply
    head, rest = targets.partition(expanded.params["model"], apply.head)
    zeros = jax.tree.map(jnp.zeros_like, head)

    def logits(head: PyTree) -> jax.Array:
        return apply.apply(targets.combine(head, rest), expanded.state, inputs, train=False)[0]

    alone = logits(_direction(head, expanded.params["column"])) - logits(zeros)
    added = expanded.logits(inputs)[:, -1]
    return jnp.max(jnp.abs(added)), jnp.max(jnp.abs(alone.at[:, 0].add(-added)))
