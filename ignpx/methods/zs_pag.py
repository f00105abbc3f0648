"""ZS-PAG, "Zero-shot machine unlearning with proxy adversarial data generation", Chen et al., 2025.

Attacks push the forget samples over the decision boundaries of the model; what lands in a retained
class is a proxy of its samples. The inputs of the proxies to each layer span a subspace S, merged
over the retained classes, and the descent on the forget set under new labels y goes around it:
`W <- W - eta (I - S S^T) dCE(f(x), y)/dW`. The labels are those under which that descent helps the
proxies most, by the influence function.
"""

import dataclasses
import functools
import warnings
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ignpx import adversarial, descent
from ignpx._support import batching, checks
from ignpx.classifier import Classifier, PyTree
from ignpx.errors import InvalidArgumentError, UnlearningError, UnlearningWarning
from ignpx.gradients import influence, subspaces
from ignpx.samples import Samples
from ignpx.stages import stage
from ignpx.unlearner import Changes, Forgets, Request, Sees, Unlearner


class ZsPagInfo(NamedTuple):
    """Diagnostics of `zs_pag`.

    Attributes:
      losses: `(steps,)` training losses.
      crossed: share of the forget samples that their attack brought to a retained class.
      proxies: `(C,)` number of proxies of each class. None where no proxies were needed; so are the
        fields below.
      ranks: rank of the subspace that each layer leaves alone, by path.
      dimensions: dimension of the inputs of each layer, by path.
      residual: of the linear system of the influence function, see `influence.Solution`.
      stopped: whether its solution stopped at a direction of negative curvature.
    """

    losses: jax.Array
    crossed: float | None = None
    proxies: np.ndarray | None = None
    ranks: dict[str, int] | None = None
    dimensions: dict[str, int] | None = None
    residual: jax.Array | None = None
    stopped: jax.Array | None = None

    def check(self, request: Request) -> None:
        """Raises if there are no proxies, nothing could move or the descent diverged.

        Warns of classes without proxies, and of pseudo labels that mean nothing.
        """
        if self.proxies is not None:
            if not self.proxies.any():
                raise UnlearningError(
                    "no attack brought a forget sample into a retained class, so that nothing "
                    "stands for what is to be kept; raise epsilon or attack_steps, or take another "
                    "attack"
                )
            empty = np.flatnonzero(np.asarray(request.retain) & (self.proxies == 0))
            if empty.size:
                warnings.warn(
                    f"no attack reached the classes {empty.tolist()}, which nothing protects; "
                    "raise epsilon or attack_steps",
                    UnlearningWarning,
                    stacklevel=3,
                )
        if self.ranks and self.ranks == self.dimensions:
            raise UnlearningError(
                "the proxies fill the input space of every layer, so that nothing can move; lower "
                f"energy ({self._filled()})"
            )
        if self.residual is not None and not (self.stopped or self.residual <= 1):
            warnings.warn(
                f"the pseudo labels go by a linear system that was not solved (its residual is "
                f"{float(self.residual):.3g} of its right side); raise damping",
                UnlearningWarning,
                stacklevel=3,
            )
        descent.DescentInfo(self.losses).check(request)

    def summary(self) -> dict[str, Any]:
        """The figures as JSON values."""
        figures = descent.DescentInfo(self.losses).summary()
        if self.proxies is not None:
            figures |= {"crossed": self.crossed, "proxies": self.proxies.tolist()}
        if self.ranks is not None:
            figures["rank_of_dimension"] = self._filled()
        if self.residual is not None:
            figures |= {"residual": float(self.residual), "stopped": bool(self.stopped)}
        return figures

    def _filled(self) -> dict[str, str]:
        ranks, dimensions = self.ranks or {}, self.dimensions or {}
        return {path: f"{ranks[path]} of {dimensions[path]}" for path in ranks}


class Proxies(NamedTuple):
    """Attacked inputs that stand for samples of each class.

    Attributes:
      inputs: `(C, n, *input_shape)` float32, preprocessed.
      weights: `(C, n)` float32, 1 for a proxy and 0 for what only fills up.
      crossed: share of the samples whose own attack led to a retained class.
    """

    inputs: np.ndarray
    weights: np.ndarray
    crossed: float


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
    settings = ZsPag(
        attack=attack,
        epsilon=epsilon,
        step_size=step_size,
        attack_steps=attack_steps,
        per_class=per_class,
        energy=energy,
        subspace=subspace,
        pseudo_labels=pseudo_labels,
        penalty=penalty,
        damping=damping,
        solver_iterations=solver_iterations,
        learning_rate=learning_rate,
        momentum=momentum,
        epochs=epochs,
        batch_size=batch_size,
    )
    changes = Changes.TARGETS | Changes.OTHER_LAYERS
    return Unlearner(Sees.FORGET, settings.unlearn, changes, Forgets.ANY)


_ATTACKS: dict[str, Callable[..., adversarial.Adversarial]] = {
    "pgd": adversarial.pgd,
    "fgsm": adversarial.fgsm,
    "carlini_wagner": adversarial.carlini_wagner,
    "deepfool": adversarial.deepfool,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class ZsPag:
    """The settings of `zs_pag`, and its stages in their order."""

    attack: str
    epsilon: float
    step_size: float
    attack_steps: int | None
    per_class: int
    energy: float
    subspace: str
    pseudo_labels: bool
    penalty: float
    damping: float
    solver_iterations: int
    learning_rate: float
    momentum: float
    epochs: int
    batch_size: int

    def __post_init__(self) -> None:
        checks.one_of(tuple(_ATTACKS), attack=self.attack)
        checks.one_of(("estimated", "random", "none"), subspace=self.subspace)
        positive = ("epsilon", "step_size", "penalty", "damping", "learning_rate")
        checks.positive(**{name: getattr(self, name) for name in positive})
        whole = ("per_class", "solver_iterations", "epochs", "batch_size")
        checks.whole(**{name: getattr(self, name) for name in whole})
        if self.attack_steps is not None:
            checks.whole(attack_steps=self.attack_steps)
        checks.share(energy=self.energy)
        checks.not_negative(momentum=self.momentum)

    def unlearn(
        self, classifier: Classifier, request: Request, key: jax.Array
    ) -> tuple[Classifier, ZsPagInfo]:
        """The method, see `Unlearner.unlearn`."""
        forget = request.forget_data
        assert forget is not None
        draw_key, subspace_key, order_key, step_key = jax.random.split(key, 4)
        layers = self.layers(classifier)
        info = ZsPagInfo(jnp.zeros(0))
        inputs = classifier.preprocess(jnp.asarray(forget.images))
        if layers or self.pseudo_labels:
            attacked = stage("attack", self.attacked)
            proxies = attacked(classifier, inputs, forget.labels, request.retain)
            counts = proxies.weights.sum(axis=1).astype(int)
            info = info._replace(crossed=proxies.crossed, proxies=counts)
            if not counts.any():
                return classifier, info
        extra_args: dict[str, PyTree] = {}
        if layers:
            bases = stage("subspaces", self.spanned)(classifier, proxies, subspace_key)
            complements = {path: subspaces.complement(basis) for path, basis in bases.items()}
            extra_args = {"projections": complements}
            info = info._replace(
                ranks={path: int(subspaces.rank(basis)) for path, basis in bases.items()},
                dimensions={path: len(basis) for path, basis in bases.items()},
            )
        if self.pseudo_labels:
            labelled = stage("influence", self.labelled)
            labels, solution = labelled(classifier, inputs, forget.labels, request.retain, proxies)
            info = info._replace(residual=solution.residual, stopped=solution.stopped)
        else:
            drawn = descent.wrong_labels(draw_key, jnp.asarray(forget.labels), request.retain)
            labels = jax.nn.one_hot(drawn, len(request.retain))
        rows = descent.batches(
            order_key, len(forget.labels), self.batch_size, self.epochs, whole=True
        )
        tuned, losses = stage("descent", descent.tune)(
            _SoftCrossEntropy(classifier.apply, classifier.preprocess),
            _optimizer(self.learning_rate, self.momentum, layers),
            classifier,
            Samples(forget.images, labels),
            rows,
            step_key,
            extra_args,
        )
        return tuned, info._replace(losses=losses)

    def layers(self, classifier: Classifier) -> tuple[subspaces.Layer, ...]:
        """The layers whose inputs are projected.

        Raises:
          InvalidArgumentError: if there should be some and the classifier has none.
        """
        if self.subspace == "none":
            return ()
        if not (found := subspaces.layers(classifier)):
            raise InvalidArgumentError(
                "classifier",
                type(classifier.apply).__name__,
                "has no dense or convolution layer whose inputs could be observed, so that there "
                "is nothing to project; take a method without subspaces",
            )
        return found

    def attacked(
        self, classifier: Classifier, inputs: jax.Array, labels: Any, retain: jax.Array
    ) -> Proxies:
        """Proxies of the retained classes, from the forget samples."""
        steps = {} if self.attack_steps is None else {"steps": self.attack_steps}
        options: dict[str, dict[str, Any]] = {
            "pgd": {"epsilon": self.epsilon, "step_size": self.step_size, **steps},
            "fgsm": {"epsilon": self.epsilon},
            "carlini_wagner": steps,
            "deepfool": steps,
        }
        # DeepFool has no target.
        aims = self.attack != "deepfool"
        topping = self.attack if aims else "pgd"
        targeted = functools.partial(_ATTACKS[topping], **options[topping], targeted=True)
        alone = functools.partial(_ATTACKS[self.attack], **options[self.attack])
        return make_proxies(
            classifier,
            inputs,
            labels,
            retain,
            first=targeted if aims else alone,
            targeted=targeted,
            per_class=self.per_class,
            aims=aims,
        )

    def spanned(
        self, classifier: Classifier, proxies: Proxies, key: jax.Array
    ) -> dict[str, jax.Array]:
        """The subspace of each layer that the descent goes around, by path."""
        bases = _bases(classifier, proxies, self.energy)
        if self.subspace == "random":
            keys = jax.random.split(key, len(bases))
            bases = {
                path: subspaces.random_basis(one, basis)
                for one, (path, basis) in zip(keys, bases.items(), strict=True)
            }
        return bases

    def labelled(
        self,
        classifier: Classifier,
        inputs: jax.Array,
        labels: Any,
        retain: jax.Array,
        proxies: Proxies,
    ) -> tuple[jax.Array, influence.Solution]:
        """Soft labels `(N, C)` of the forget samples, and the solution that they go by."""
        count, size = proxies.weights.shape
        solution = influence.newton_direction(
            classifier,
            jnp.asarray(proxies.inputs.reshape(-1, *classifier.input_shape)),
            jnp.repeat(jnp.arange(count), size),
            jnp.asarray((proxies.weights / proxies.weights.sum()).ravel()),
            damping=self.damping,
            iterations=self.solver_iterations,
        )
        # What a descent step under each label adds to the loss of the proxies, up to a factor.
        costs = influence.influences(classifier, inputs, solution.direction)
        length = jnp.sqrt(jnp.mean(jnp.square(costs)))
        costs = costs / jnp.where(length > 0, length, 1.0)
        return influence.pseudo_labels(costs, jnp.asarray(labels), retain, self.penalty), solution


@dataclasses.dataclass(frozen=True)
class _SoftCrossEntropy:
    """Mean cross-entropy with soft labels in evaluation mode, a `descent.Loss`."""

    apply: Any
    preprocess: Any

    def __call__(
        self, params: PyTree, state: PyTree, batch: Samples, key: jax.Array, extra_args: PyTree
    ) -> tuple[jax.Array, PyTree]:
        logits, state = self.apply(params, state, self.preprocess(batch.images), train=False)
        return optax.softmax_cross_entropy(logits.astype(jnp.float32), batch.labels).mean(), state


@functools.lru_cache(maxsize=64)
def _optimizer(
    learning_rate: float, momentum: float, layers: tuple[subspaces.Layer, ...]
) -> optax.GradientTransformation:
    rule = descent.optimizer("sgd", learning_rate, momentum=momentum)
    return optax.chain(rule, subspaces.projected(layers)) if layers else rule


def make_proxies(
    classifier: Classifier,
    inputs: jax.Array,
    labels: Any,
    retain: Any,
    *,
    first: Any,
    targeted: Any,
    per_class: int,
    aims: bool,
) -> Proxies:
    """Attacks every sample, and some again towards the classes that too few have reached.

    Args:
      classifier: the model.
      inputs: `(N, *input_shape)`, preprocessed.
      labels: `(N,)` true class ids.
      retain: `(C,)` bool, the classes to reach.
      first: an attack of `ignpx.adversarial`.
      targeted: the one that tops up.
      per_class: see `zs_pag`.
      aims: whether the first attack is targeted, too, or leaves the class of a sample.

    Returns:
      See `Proxies`; n is `per_class`, or N where there are fewer samples.
    """
    labels, retain = np.asarray(labels), np.asarray(retain)
    # One size for all of the attacks, whatever a request needs, is compiled once.
    size = min(per_class, len(labels))

    def run(attack: Any, inputs: Any, labels: Any) -> tuple[np.ndarray, np.ndarray]:
        attack = functools.partial(attack, classifier, bounds=classifier.bounds)
        found = adversarial.in_batches(attack, inputs, labels, size)
        return np.asarray(found.inputs), np.asarray(found.predicted)

    logits = np.concatenate(
        [_logits(classifier, chunk) for chunk in batching.microbatches(inputs, size)]
    )[: len(labels)]
    open_to = retain & (np.arange(len(retain)) != labels[:, None])
    runners_up = np.where(open_to, logits, -np.inf).argmax(axis=1)
    moved, reached = run(first, inputs, runners_up if aims else labels)
    crossed = open_to[np.arange(len(labels)), reached]

    proxies = np.zeros((len(retain), size, *classifier.input_shape), np.float32)
    weights = np.zeros((len(retain), size), np.float32)
    for k in np.flatnonzero(retain):
        there = crossed & (reached == k)
        found = moved[there][:size]
        others = np.flatnonzero(open_to[:, k] & ~there)
        if len(found) < size and len(others):
            margin = logits[others, labels[others]] - logits[others, k]
            nearest = others[np.argsort(margin, kind="stable")][:size]
            again, at = run(targeted, inputs[np.resize(nearest, size)], np.full(size, k, np.int32))
            arrived = at[: len(nearest)] == k
            found = np.concatenate([found, again[: len(nearest)][arrived]])[:size]
        proxies[k, : len(found)] = found
        weights[k, : len(found)] = 1
    return Proxies(proxies, weights, float(crossed.mean()))


def _bases(classifier: Classifier, proxies: Proxies, energy: float) -> dict[str, jax.Array]:
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


@jax.jit
def _logits(classifier: Classifier, inputs: jax.Array) -> jax.Array:
    return classifier.logits(inputs)
