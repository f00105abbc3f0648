"""Inversion-Guided Neuron Perturbation (IGNP), "Perturb to Forget: Zero-Shot Machine Unlearning".

It forgets whole classes with no data at all (Sections 3.2 to 3.4 and Algorithm 1):

1. synthesise prototypes of every class from noise (Equations 1, 2);
2. weigh each parameter of the target layers by the mean squared per-sample gradient on the forget
   and on the retain prototypes (Equations 3, 4);
3. select those whose ratio exceeds alpha, with alpha calibrated to a coverage (Equations 5, 6);
4. scale the selected ones by `alpha / strength * S_retain / S_forget` (Equation 7).

The prototypes of all classes, and the sum of their sensitivities, do not depend on the request:
they can be prepared once, and a request takes from that sum what it does not retain. Without them
the retained classes are weighed themselves, which keeps more digits.
"""

import functools
import warnings
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ignpx import caching, checks, convolutions, edits, importance, losses, selection, synthesis
from ignpx.classifier import Classifier, PyTree, check_handle
from ignpx.errors import InvalidArgumentError, UnlearningError, UnlearningWarning
from ignpx.moments import Moments
from ignpx.stages import stage
from ignpx.targets import partition, paths
from ignpx.targets import size as parameter_count
from ignpx.unlearner import Request, Sees, Unlearner


class Prepared(NamedTuple):
    """What `ignp` needs of a model whatever is to be forgotten.

    Attributes:
      prototypes: of every class.
      total: sum over the classes of the mean squared gradients of a class's prototypes, a pytree
        like `params` with float32 leaves and None outside the targets. None if it was not prepared.
      made_of: the fingerprint of the classifier, by which `ignpx.unlearn` tells it from others.
    """

    prototypes: synthesis.Prototypes
    total: PyTree | None
    made_of: jax.Array | None = None


class IgnpInfo(NamedTuple):
    """Diagnostics of `ignp`.

    Attributes:
      prototypes: what was synthesised; the last `held_out` of each class took no part in the
        sensitivities.
      calibration: alpha, the coverage reached, and whether it lies in the range asked for.
      search: what the search within the range saw; None with `within="middle"`.
      selected: number of edited parameters, a pytree like `params` with None outside the targets.
      held_out: `(num_classes,)` share of the held-out prototypes of each class that the edited
        model still recognises. Without any data it tells how the edit went: 0 for the forget
        classes and 1 for the retained ones is what one wants to see.
    """

    prototypes: synthesis.Prototypes
    calibration: selection.Calibration
    search: selection.CoverageSearch | None
    selected: PyTree
    held_out: jax.Array

    def check(self, request: Request) -> None:
        """Raises if prototypes never reached their class or no alpha reaches the coverage."""
        used = np.asarray(request.forget | request.retain)
        recognised = np.asarray(self.prototypes.recognised)
        lost = np.flatnonzero(used & ~(recognised >= 0.5))
        if lost.size:
            shares = ", ".join(f"{c}: {recognised[c]:.0%}" for c in lost[:10])
            raise UnlearningError(
                f"prototypes did not reach their class (recognised share by class: {shares}); "
                "the model may be constant or untrained, otherwise raise steps or learning_rate"
            )
        if not self.calibration.converged:
            below, above = (float(value) for value in self.calibration.reachable)
            raise UnlearningError(
                "no alpha reaches the coverage; the nearest that can be reached are "
                f"{below:.4%} and {above:.4%}. Set coverage to a range that holds one of them"
            )
        for doubt in self.doubts(request):
            warnings.warn(doubt, UnlearningWarning, stacklevel=3)

    def summary(self) -> dict[str, Any]:
        """The figures as JSON values."""
        log_alpha, alpha = float(self.calibration.log_alpha), float(self.calibration.alpha)
        counts = zip(paths(self.selected), jax.tree.leaves(self.selected), strict=True)
        return {
            "alpha": alpha if np.isfinite(alpha) else None,
            "log10_alpha": log_alpha / float(np.log(10)),
            "coverage": float(self.calibration.coverage),
            "calibration_passes": int(self.calibration.passes),
            "selected_by_parameter": {name: int(count) for name, count in counts},
            "prototype_loss": [float(v) for v in self.prototypes.loss],
            "prototype_confidence": [float(v) for v in self.prototypes.confidence],
            "held_out_recognised": [float(v) for v in self.held_out],
        }

    def doubts(self, request: Request) -> list[str]:
        """What speaks against trusting the edit, as far as that shows without data."""
        forget, retain = np.asarray(request.forget), np.asarray(request.retain)
        used = forget | retain
        doubts = []
        roughness = np.asarray(self.prototypes.roughness)
        rough = np.flatnonzero(used & (roughness > 0.75))
        if rough.size:
            doubts.append(
                f"the prototypes of classes {rough.tolist()} are as rough as noise (roughness "
                f"{roughness[rough].max():.2f}, noise has 1): they reach their class "
                "without resembling its data, and real samples may not be forgotten; raise "
                "total_variation, or batch_statistics for a model with batch norm"
            )
        loss = np.asarray(self.prototypes.loss)
        if loss[used].min() < 1e-6:
            doubts.append(
                f"the prototypes are saturated (mean loss by class from {loss[used].min():.1e} to "
                f"{loss[used].max():.1e}): their gradients vanish, and alpha is decided by "
                "rounding; lower steps or learning_rate, or raise total_variation"
            )
        held_out = np.asarray(self.held_out)
        if forget.any() and held_out[forget].max() > 0:
            doubts.append(
                f"the edited model still recognises {held_out[forget].mean():.0%} of the held-out "
                "prototypes of the forget classes; raise coverage, or widen targets"
            )
        if retain.any() and held_out[retain].mean() < 0.95:
            doubts.append(
                f"the edited model recognises only {held_out[retain].mean():.0%} of the held-out "
                "prototypes of the retained classes; lower coverage"
            )
        return doubts


# What the paper says, where it says something, and nothing that it does not have.
PAPER: dict[str, Any] = {
    "coverage": (0.04, 0.05),
    "within": "middle",
    "total_variation": 0.0,
    "batch_statistics": 0.0,
    "pixel_range": False,
    "sensitivity_loss": "cross_entropy",
    "direction": "any",
}

# Its ablation (Table 5): the parameters that matter most to the forget class are zeroed, whatever
# they mean to the others.
ZEROING: dict[str, Any] = {**PAPER, "ranking": "forget", "edit": "zero"}


# Optimisers of optax that need no more than a learning rate.
OPTIMIZERS = ("adam", "adamw", "adabelief", "lion", "nadam", "radam", "rmsprop", "sgd")


def ignp(
    *,
    coverage: tuple[float, float] | Literal["auto"] = "auto",
    within: Literal["held_out", "middle"] = "held_out",
    strength: float = 10.0,
    targets: tuple[str, ...] | None = None,
    samples: int = 20,
    steps: int = 200,
    learning_rate: float = 0.1,
    optimizer: str = "adam",
    diversity: float = 1.0,
    total_variation: float = 1.0,
    batch_statistics: float = 1.0,
    pixel_range: bool = True,
    sensitivity_loss: Literal["log_odds", "cross_entropy"] = "log_odds",
    held_out: int = 20,
    coverage_of: Literal["model", "targets"] = "model",
    ranking: Literal["ratio", "forget"] = "ratio",
    direction: Literal["supporting", "any"] = "supporting",
    edit: Literal["dampen", "zero"] = "dampen",
    microbatch: int | None = None,
    precision: Literal["float32", "bfloat16"] = "float32",
) -> Unlearner:
    """Builds the IGNP unlearner, which sees no data.

    The defaults are ours: the paper's plain setting, `ignp(**PAPER)`, does not forget every class
    of the models that it was tried on (see `results/`).

    Args:
      coverage: the range that the share of edited parameters must lie in (Equation 6). The paper
        has (0.04, 0.05) for ten classes and (0.011, 0.013) for a hundred, chosen on test data, and
        1 to 5 % in general. `auto` takes neither test data nor a setting for each dataset: a range
        that follows from the number of classes (`auto_coverage`).
      within: which coverage of the range is taken; any will do for Equation 6. `held_out` lets
        prototypes decide that took no part in the sensitivities (see
        `ignpx.selection.search_coverage`); `middle` takes the middle of the range.
      strength: lambda of Equation 7: selected parameters shrink at least this many times.
      targets: patterns of the layers to edit; by default the classifier's own `targets`.
      samples: prototypes of each class that enter the sensitivities. The paper's "200 samples" are
        20 for each of ten classes.
      steps: of the synthesis; 200 in the paper.
      learning_rate: of the synthesis. Not given in the paper.
      optimizer: name of an optax optimiser for the synthesis, of `OPTIMIZERS`. Not given in the
        paper.
      diversity: weight of the inverse mean distance, lambda_div of Equation 2. Not given.
      total_variation: weight of the image prior, which the paper does not have; 0 is its setting.
        Without it the prototypes stay noise, and what is forgotten is noise too.
      batch_statistics: weight of the match of batch-norm statistics, which the paper does not have
        either; 0 is its setting. Absent for models without batch norm.
      pixel_range: keeps prototypes within the values that an image can have, where the
        classifier's preprocessing tells them; False is the paper's setting.
      sensitivity_loss: what is differentiated in Equations 3 and 4. The paper's `cross_entropy`
        weighs a prototype by the square of `1 - p`, so that a few that are less sure than the rest
        decide alone; `log_odds` is the same gradient without that factor.
      held_out: prototypes of each class that are kept out of the sensitivities: they choose the
        coverage, and `IgnpInfo.held_out` tells by them how the edit went.
      coverage_of: whether coverage is a share of all parameters of the model, as Equation 6 reads,
        or of those in the target layers.
      ranking: what alpha is a threshold on: the `ratio` of Equation 5, or the `forget` sensitivity
        alone, as in the paper's ablation.
      direction: `supporting` edits only parameters whose shrinking raises the loss of the forget
        class, to first order: those with `theta * dL/dtheta < 0` on its prototypes. Squares do not
        tell them from parameters that speak against the class, which Equation 5 (`any`) dampens
        as well.
      edit: `dampen` by Equation 7, or `zero`, as in the ablation.
      microbatch: prototypes differentiated at once; memory against speed, not the result. By
        default as many as fit (see `ignpx.moments.ROOM`).
      precision: of the model's passes in the synthesis; everything else is in float32.

    Returns:
      An `Unlearner` whose `unlearn` is pure and runs under `jit` and under `vmap` over requests.

    Raises:
      InvalidArgumentError: if an argument is out of its range.
    """
    if coverage != "auto":
        coverage = selection.check_coverage(coverage)
    checks.one_of(("held_out", "middle"), within=within)
    checks.one_of(("model", "targets"), coverage_of=coverage_of)
    checks.one_of(("ratio", "forget"), ranking=ranking)
    checks.one_of(("supporting", "any"), direction=direction)
    checks.one_of(("dampen", "zero"), edit=edit)
    checks.one_of(("float32", "bfloat16"), precision=precision)
    checks.positive(strength=strength, learning_rate=learning_rate)
    checks.whole(samples=samples, steps=steps, held_out=held_out)
    if microbatch is not None:
        checks.whole(microbatch=microbatch)
    weights = {
        "diversity": diversity,
        "total_variation": total_variation,
        "batch_statistics": batch_statistics,
    }
    checks.not_negative(**weights)
    sensitivity_losses = {
        "log_odds": losses.negative_log_odds,
        "cross_entropy": losses.cross_entropy,
    }
    checks.one_of(tuple(sensitivity_losses), sensitivity_loss=sensitivity_loss)
    checks.one_of(OPTIMIZERS, optimizer=optimizer)
    transformation = getattr(optax, optimizer)(learning_rate)
    terms = [synthesis.cross_entropy()]
    terms += [getattr(synthesis, name)(value) for name, value in weights.items() if value > 0]

    def patterns(classifier: Classifier) -> tuple[str, ...]:
        return classifier.targets if targets is None else tuple(targets)

    def synthesise(classifier: Classifier, key: jax.Array) -> synthesis.Prototypes:
        # Patterns that match nothing are found before anything long is done.
        partition(classifier.params, patterns(classifier))
        return synthesis.synthesise(
            classifier.computing_in(precision),
            key,
            terms=terms,
            samples=samples + held_out,
            steps=steps,
            optimizer=transformation,
            bounds=classifier.bounds if pixel_range else None,
        )

    def moments(
        classifier: Classifier,
        prototypes: synthesis.Prototypes,
        classes: Any,
        weights: jax.Array,
        mean_weights: jax.Array | None = None,
    ) -> Moments:
        """Of the prototypes of some classes `(K,)`, with weights `(..., K)`."""
        return importance.sensitivity_moments(
            classifier,
            *each_sample(prototypes, classes, weights, mean_weights),
            loss=sensitivity_losses[sensitivity_loss],
            patterns=patterns(classifier),
            microbatch=microbatch,
        )

    # Compiled, as is what follows the sensitivities: one by one the operations would take as long
    # as the gradients of a small model.
    @caching.jit
    def each_sample(
        prototypes: synthesis.Prototypes, classes: jax.Array, *weights: jax.Array | None
    ) -> tuple[Any, ...]:
        inputs = prototypes.inputs[classes, :samples]
        return (
            inputs.reshape(-1, *inputs.shape[2:]),
            jnp.repeat(prototypes.labels[classes], samples),
            *jax.tree.map(lambda each: jnp.repeat(each, samples, axis=-1), weights),
        )

    def weigh_all(classifier: Classifier, prototypes: synthesis.Prototypes) -> PyTree:
        every = np.arange(classifier.num_classes)
        return moments(classifier, prototypes, every, jnp.full(len(every), 1.0 / samples)).square

    def weigh(
        classifier: Classifier,
        prototypes: synthesis.Prototypes,
        request: Request,
        total: PyTree | None,
    ) -> tuple[PyTree, PyTree]:
        # With a total only what it does not retain is weighed: the classes that are forgotten, and
        # those that were before, which count among neither.
        if total is None or isinstance(request.retain, jax.core.Tracer):
            classes = np.arange(classifier.num_classes)
        else:
            classes = np.flatnonzero(~np.asarray(request.retain))
        weights = class_weights(request, classes, total is None)
        found = moments(classifier, prototypes, classes, *weights)
        chosen, _ = partition(classifier.params, patterns(classifier))
        return balance(found, chosen, total, request.retain)

    @functools.partial(caching.jit, static_argnums=2)
    def class_weights(
        request: Request, classes: jax.Array, all_classes: bool
    ) -> tuple[jax.Array, jax.Array | None]:
        forget, retain = request.forget[classes], request.retain[classes]
        forgets = forget / (samples * jnp.sum(request.forget))
        others = retain / jnp.sum(request.retain) if all_classes else ~retain
        weights = jnp.stack([forgets, others / samples])
        return weights, forgets if direction == "supporting" else None

    @caching.jit
    def balance(
        found: Moments, chosen: PyTree, total: PyTree | None, retained: jax.Array
    ) -> tuple[PyTree, PyTree]:
        forget, retain = (jax.tree.map(lambda leaf, i=i: leaf[i], found.square) for i in (0, 1))
        if total is not None:
            retain = jax.tree.map(
                # Rounding, where the retained classes add next to nothing.
                lambda total, part: jnp.maximum(total - part, 0.0) / jnp.sum(retained),
                total,
                retain,
            )
        if direction == "supporting":
            forget = selection.supporting(forget, found.mean, chosen)
        return forget, retain

    def recognised(classifier: Classifier, prototypes: synthesis.Prototypes) -> jax.Array:
        unseen = prototypes.inputs[:, samples:].reshape(-1, *classifier.input_shape)
        logits = convolutions.fast(Classifier.logits)(classifier, unseen)
        right = jnp.argmax(logits, axis=-1).reshape(-1, held_out) == prototypes.labels[:, None]
        return jnp.mean(right, axis=1)

    def dampen(classifier: Classifier, ratios: PyTree, log_alpha: jax.Array) -> Classifier:
        if edit == "zero":
            factors = edits.zeroing(selection.mask(ratios, log_alpha))
        else:
            factors = edits.dampening(ratios, log_alpha, strength)
        return classifier.replace(params=edits.scale(classifier.params, factors))

    def calibrate(
        classifier: Classifier,
        prototypes: synthesis.Prototypes,
        request: Request,
        forget: PyTree,
        retain: PyTree,
    ) -> tuple[PyTree, selection.CoverageSearch | None, selection.Calibration]:
        if ranking == "forget":
            retain = jax.tree.map(jnp.ones_like, retain)
        ratios = selection.log_ratio(forget, retain)
        total = parameter_count(classifier.params if coverage_of == "model" else ratios)
        limits = auto_coverage(classifier.num_classes) if coverage == "auto" else coverage
        if within == "middle":
            return ratios, None, selection.calibrate(ratios, limits, total=total)

        def shares(log_alpha: jax.Array) -> tuple[jax.Array, jax.Array]:
            # XLA computes what the layers below the targets make of the prototypes only once.
            each = recognised(dampen(classifier, ratios, log_alpha), prototypes)
            return _mean(each, request.forget), _mean(each, request.retain)

        search = selection.search_coverage(ratios, shares, jnp.geomspace(*limits, 16), total=total)
        return ratios, search, selection.calibrate(ratios, limits, at=search.chosen, total=total)

    def diagnose(
        edited: Classifier, prototypes: synthesis.Prototypes, ratios: PyTree, log_alpha: jax.Array
    ) -> tuple[PyTree, jax.Array]:
        selected = jax.tree.map(jnp.sum, selection.mask(ratios, log_alpha))
        return selected, recognised(edited, prototypes)

    run_synthesis = stage("synthesis", synthesise)
    run_total = stage("sensitivity", weigh_all)
    run_sensitivity = stage("sensitivity", weigh)
    run_calibration = stage("calibration", caching.jit(calibrate))
    run_dampening = stage("dampening", caching.jit(dampen))
    run_diagnosis = stage("diagnosis", caching.jit(diagnose))

    def prepare(classifier: Classifier, key: jax.Array) -> Prepared:
        check_handle(classifier)
        prototypes = run_synthesis(classifier, checks.prng_key(key=key))
        return Prepared(prototypes, run_total(classifier, prototypes), classifier.fingerprint())

    def check_settings(
        classifier: Classifier, prototypes: synthesis.Prototypes, total: PyTree | None
    ) -> None:
        chosen, _ = partition(classifier.params, patterns(classifier))
        same = total is None or paths(total) == paths(chosen)
        count = prototypes.inputs.shape[1]
        if not same or count != samples + held_out:
            raise InvalidArgumentError(
                "prepared",
                f"{count} prototypes of each class",
                "was prepared with other samples, held_out or targets; prepare with these",
            )

    def unlearn(
        classifier: Classifier,
        request: Request,
        key: jax.Array,
        prepared: Prepared | None = None,
    ) -> tuple[Classifier, IgnpInfo]:
        if prepared is None:
            # One request alone takes one pass over all classes.
            prepared = Prepared(run_synthesis(classifier, key), None)
        prototypes, total, _ = prepared
        check_settings(classifier, prototypes, total)
        forget, retain = run_sensitivity(classifier, prototypes, request, total)
        ratios, search, calibration = run_calibration(
            classifier, prototypes, request, forget, retain
        )
        edited = run_dampening(classifier, ratios, calibration.log_alpha)
        selected, shares = run_diagnosis(edited, prototypes, ratios, calibration.log_alpha)
        return edited, IgnpInfo(prototypes, calibration, search, selected, shares)

    return Unlearner(Sees.NOTHING, unlearn, prepare=prepare)


def auto_coverage(num_classes: int) -> tuple[float, float]:
    """The range of coverages that `coverage="auto"` searches: 0.3 to 2.5 % for ten classes."""
    return 0.03 / num_classes, 0.08 / num_classes**0.5


def _mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    return jnp.sum(jnp.where(mask, values, 0.0)) / jnp.sum(mask)
