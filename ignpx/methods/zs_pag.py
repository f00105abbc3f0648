"""ZS-PAG, "Zero-shot machine unlearning with proxy adversarial data generation", Chen et al., 2025.

Attacks push the forget samples over the decision boundaries of the model; what lands in a retained
class is a proxy of its samples. The inputs of the proxies to each layer span a subspace S, merged
over the retained classes, and the descent on the forget set under new labels y goes around it:
`W <- W - eta (I - S S^T) dCE(f(x), y)/dW`. The labels are those under which that descent helps the
proxies most, by the influence function.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ignpx import adversarial, descent
from ignpx._support import checks
from ignpx.classifier import Classifier
from ignpx.errors import InvalidArgumentError, UnlearningError
from ignpx.gradients import influence, subspaces
from ignpx.request import Forgets, Request, Sees
from ignpx.steps import Course, State, Step, chain, descend
from ignpx.unlearner import Changes, Unlearner


class Attacked(NamedTuple):
    """The report of `attacked`.

    Attributes:
      crossed: share of the forget samples that their attack brought to a retained class.
      proxies: `(C,)` number of proxies of each class.
    """

    crossed: float
    proxies: np.ndarray

    def doubts(self, request: Request) -> list[str]:
        """Which classes nothing protects."""
        empty = np.flatnonzero(np.asarray(request.retain) & (self.proxies == 0))
        if not empty.size:
            return []
        return [
            f"no attack reached the classes {empty.tolist()}, which nothing protects; raise "
            "epsilon or attack_steps"
        ]

    def summary(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return {"crossed": self.crossed, "proxies": self.proxies.tolist()}


class Spanned(NamedTuple):
    """The report of `span`.

    Attributes:
      ranks: rank of the subspace that each layer leaves alone, by path.
      dimensions: dimension of the inputs of each layer, by path.
    """

    ranks: dict[str, int]
    dimensions: dict[str, int]

    def check(self, request: Request) -> None:
        """Raises if nothing can move."""
        if self.ranks == self.dimensions:
            raise UnlearningError(
                "the proxies fill the input space of every layer, so that nothing can move; lower "
                f"energy ({self._filled()})"
            )

    def summary(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return {"rank_of_dimension": self._filled()}

    def _filled(self) -> dict[str, str]:
        return {path: f"{rank} of {self.dimensions[path]}" for path, rank in self.ranks.items()}


class Solved(NamedTuple):
    """The report of `label`.

    Attributes:
      residual: of the linear system of the influence function, see `influence.Solution`.
      stopped: whether its solution stopped at a direction of negative curvature.
    """

    residual: jax.Array
    stopped: jax.Array

    def doubts(self, request: Request) -> list[str]:
        """Whether the pseudo labels mean anything."""
        if self.stopped or self.residual <= 1:
            return []
        return [
            "the pseudo labels go by a linear system that was not solved (its residual is "
            f"{float(self.residual):.3g} of its right side); raise damping"
        ]

    def summary(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return {"residual": float(self.residual), "stopped": bool(self.stopped)}


def zs_pag(
    *,
    attack: Literal["pgd", "fgsm", "carlini_wagner", "deepfool"] = "pgd",
    epsilon: float = 8 / 255,
    step_size: float = 2 / 255,
    attack_steps: int | None = None,
    per_class: int = 100,
    energy: float = 0.97,
    subspace: Literal["estimated", "random", "none"] = "estimated",
    pseudo_labels: bool = True,
    penalty: float = 1.0,
    damping: float = 0.01,
    solver_iterations: int = 20,
    learning_rate: float = 0.01,
    momentum: float = 0.0,
    epochs: int = 10,
    batch_size: int = 64,
) -> Unlearner:
    """Builds the ZS-PAG unlearner, which sees the forget set alone.

    The influence is that of adding a sample, as fine-tuning does. The paper's Equation 10 is about
    removing one, which has the opposite sign. Of the paper are the attack, 100 proxies a class and
    10 epochs. The bound of the attack, the threshold of the singular values, and the settings of
    the optimiser and of the pseudo labels are not in it: these defaults are ours. The model is in
    evaluation mode throughout.

    How the paper is read: the target of an attack is the runner-up among the retained classes. A
    proxy belongs to the class that the model takes it for, if that is a retained one and not the
    label of the sample. Retained classes with too few are topped up by attacks targeted at them,
    from the samples nearest to them. Subspaces are merged as in GPM, each class on what the others
    leave of it. Biases, norms and whatever `subspaces.layers` does not list stay as they are.

    The samples to be forgotten can be a part of a class: then the class has no proxies unless
    samples of other classes are among them, and nothing protects it.

    Args:
      attack: see `ignpx.adversarial`. `deepfool` has no target; its classes are topped up by `pgd`.
      epsilon: bound of `fgsm` and `pgd`, in intensities. Grey digits take about 0.3.
      step_size: of `pgd`, in intensities.
      attack_steps: of the attacks other than `fgsm`; each one's own default unless given.
      per_class: proxies of a class, at most one of each forget sample.
      energy: share of the squared singular values of the proxies' inputs to a layer that the
        subspace of a class holds, in (0, 1]. The more, the less moves.
      subspace: `random` goes around random subspaces of the same ranks, and `none` fine-tunes all
        parameters freely: the paper's ablation (Table 5).
      pseudo_labels: whether labels are optimised; if not, they are drawn at random from the
        retained classes, once for each sample.
      penalty: weight of `-log(1 - y)`, where y is what a pseudo label leaves on the true class;
        the influences beside it are divided by their root mean square.
      damping: added to the Hessian's diagonal, see `influence.newton_direction`.
      solver_iterations: of the conjugate gradients that solve the linear system of the influence
        function.
      learning_rate: of SGD.
      momentum: of the same; the projection is of the final update and holds against it.
      epochs: over the forget set.
      batch_size: samples a step; the last batch of an epoch is filled up.

    Returns:
      An `Unlearner` that needs a classifier with dense or convolution layers.

    Raises:
      InvalidArgumentError: if an argument is out of its range; when it runs, if the classifier has
        no layer whose inputs can be observed.
    """
    checks.one_of(("estimated", "random", "none"), subspace=subspace)
    checks.whole(epochs=epochs, batch_size=batch_size)
    protects = subspace != "none"
    proxies = attacked(attack, epsilon, step_size, attack_steps, per_class)
    spanned = span(energy, at_random=subspace == "random")
    labelled = label(penalty, damping, solver_iterations)
    optimizer = descent.optimizer("sgd", learning_rate, momentum=momentum)

    def course(state: State, keys: jax.Array) -> Course:
        (order_key, step_key), samples = keys, state.forget_data
        rows = descent.batches(order_key, len(samples.labels), batch_size, epochs, whole=True)
        loss = descent.CrossEntropy.of(state.classifier, train=False)
        if not protects:
            return Course(loss, optimizer, samples, rows, step_key)
        projected = subspaces.projected(subspaces.layers(state.classifier))
        projections = {"projections": state.extra["projections"]}
        rule = optax.chain(optimizer, projected)
        return Course(loss, rule, samples, rows, step_key, projections)

    alone = [proxies] if pseudo_labels else []
    before = [proxies, spanned] if protects else alone

    def keys(key: jax.Array) -> list[jax.Array]:
        draw_key, subspace_key, *rest = jax.random.split(key, 4)
        return [*[key, subspace_key][: len(before)], draw_key, jnp.stack(rest)]

    return chain(
        *before,
        labelled if pseudo_labels else Step("labels", draw_labels, sees=Sees.FORGET),
        descend(course, sees=Sees.FORGET, changes=Changes.TARGETS | Changes.OTHER_LAYERS),
        forgets=Forgets.ANY,
        keys=keys,
    )


_ATTACKS: dict[str, Callable[..., adversarial.Adversarial]] = {
    "pgd": adversarial.pgd,
    "fgsm": adversarial.fgsm,
    "carlini_wagner": adversarial.carlini_wagner,
    "deepfool": adversarial.deepfool,
}


def attacked(
    attack: str, epsilon: float, step_size: float, attack_steps: int | None, per_class: int
) -> Step:
    """Makes proxies of the retained classes from the forget samples, see `zs_pag`.

    Raises:
      InvalidArgumentError: if an argument is out of its range.
    """
    checks.one_of(tuple(_ATTACKS), attack=attack)
    checks.positive(epsilon=epsilon, step_size=step_size)
    checks.whole(per_class=per_class)
    steps = {}
    if attack_steps is not None:
        checks.whole(attack_steps=attack_steps)
        steps = {"steps": attack_steps}
    options: dict[str, dict[str, Any]] = {
        "pgd": {"epsilon": epsilon, "step_size": step_size, **steps},
        "fgsm": {"epsilon": epsilon},
        "carlini_wagner": steps,
        "deepfool": steps,
    }
    # DeepFool has no target.
    aims = attack != "deepfool"
    topping = attack if aims else "pgd"
    targeted = functools.partial(_ATTACKS[topping], **options[topping], targeted=True)
    alone = functools.partial(_ATTACKS[attack], **options[attack])

    def run(state: State, key: jax.Array, _: Any) -> tuple[State, Attacked]:
        found = adversarial.make_proxies(
            state.classifier,
            _inputs(state),
            state.forget_data.labels,
            state.request.retain,
            first=targeted if aims else alone,
            targeted=targeted,
            per_class=per_class,
            aims=aims,
        )
        counts = found.weights.sum(axis=1).astype(int)
        if not counts.any():
            raise UnlearningError(
                "no attack brought a forget sample into a retained class, so that nothing stands "
                "for what is to be kept; raise epsilon or attack_steps, or take another attack"
            )
        state = state.replace(extra={**state.extra, "proxies": found})
        return state, Attacked(found.crossed, counts)

    return Step("attack", run, sees=Sees.FORGET)


def span(energy: float, *, at_random: bool) -> Step:
    """Finds the subspaces that the descent goes around, see `zs_pag`.

    Raises:
      InvalidArgumentError: if the energy is not in (0, 1].
    """
    checks.share(energy=energy)

    def run(state: State, key: jax.Array, _: Any) -> tuple[State, Spanned]:
        bases = _bases(state.classifier, state.extra["proxies"], energy)
        if at_random:
            keys = jax.random.split(key, len(bases))
            bases = {
                path: subspaces.random_basis(one, basis)
                for one, (path, basis) in zip(keys, bases.items(), strict=True)
            }
        projections = {path: subspaces.complement(basis) for path, basis in bases.items()}
        ranks = {path: int(subspaces.rank(basis)) for path, basis in bases.items()}
        dimensions = {path: len(basis) for path, basis in bases.items()}
        state = state.replace(extra={**state.extra, "projections": projections})
        return state, Spanned(ranks, dimensions)

    return Step("subspaces", run, check=_check_layers)


def label(penalty: float, damping: float, iterations: int) -> Step:
    """Gives the forget samples the soft labels that help the proxies most, see `zs_pag`.

    Raises:
      InvalidArgumentError: if an argument is out of its range.
    """
    checks.positive(penalty=penalty, damping=damping)
    checks.whole(solver_iterations=iterations)

    def run(state: State, key: jax.Array, _: Any) -> tuple[State, Solved]:
        proxies, classifier = state.extra["proxies"], state.classifier
        count, size = proxies.weights.shape
        solution = influence.newton_direction(
            classifier,
            jnp.asarray(proxies.inputs.reshape(-1, *classifier.input_shape)),
            jnp.repeat(jnp.arange(count), size),
            jnp.asarray((proxies.weights / proxies.weights.sum()).ravel()),
            damping=damping,
            iterations=iterations,
        )
        # What a descent step under each label adds to the loss of the proxies, up to a factor.
        costs = influence.influences(classifier, _inputs(state), solution.direction)
        length = jnp.sqrt(jnp.mean(jnp.square(costs)))
        costs = costs / jnp.where(length > 0, length, 1.0)
        known = jnp.asarray(state.forget_data.labels)
        labels = influence.pseudo_labels(costs, known, state.request.retain, penalty)
        return state.relabelled(labels), Solved(solution.residual, solution.stopped)

    return Step("influence", run, sees=Sees.FORGET)


def draw_labels(state: State, key: jax.Array, _: Any) -> tuple[State, None]:
    """Gives each forget sample a retained class at random."""
    known, retain = jnp.asarray(state.forget_data.labels), state.request.retain
    drawn = descent.wrong_labels(key, known, retain)
    return state.relabelled(jax.nn.one_hot(drawn, len(retain))), None


def _inputs(state: State) -> jax.Array:
    return state.classifier.preprocess(jnp.asarray(state.forget_data.images))


def _check_layers(classifier: Classifier) -> None:
    if not subspaces.layers(classifier):
        raise InvalidArgumentError(
            "classifier",
            type(classifier.apply).__name__,
            "has no dense or convolution layer whose inputs could be observed, so that there is "
            "nothing to project; take a method without subspaces",
        )


def _bases(
    classifier: Classifier, proxies: adversarial.Proxies, energy: float
) -> dict[str, jax.Array]:
    """The subspaces of all classes that have proxies, merged layer by layer."""
    bases = {
        layer.path: jnp.zeros((layer.inputs,) * 2, jnp.float32)
        for layer in subspaces.layers(classifier)
    }
    for inputs, weights in zip(proxies.inputs, proxies.weights, strict=True):
        if weights.any():
            grams = subspaces.gram_matrices(classifier, *map(jnp.asarray, (inputs, weights)))
            bases = {path: subspaces.basis(grams[path], energy, bases[path]) for path in bases}
    return bases
