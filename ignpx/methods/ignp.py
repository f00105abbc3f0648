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

from ignpx import _xla, edits, importance, losses, selection, synthesis
from ignpx._support import checks
from ignpx.classifier import Classifier, PyTree, check_handle
from ignpx.errors import InvalidArgumentError, UnlearningError, UnlearningWarning
from ignpx.gradients.moments import Moments
from ignpx.stages import stage
from ignpx.targets import as_patterns, partition, paths
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
      finite: whether the sensitivities of a parameter are, a pytree of booleans like `selected`.
    """

    prototypes: synthesis.Prototypes
    calibration: selection.Calibration
    search: selection.CoverageSearch | None
    selected: PyTree
    held_out: jax.Array
    finite: PyTree

    def check(self, request: Request) -> None:
        """Raises if values are not finite, a class or the coverage was not reached."""
        self.prototypes.check()
        used = np.asarray(request.forget | request.retain)
        recognised = np.asarray(self.prototypes.recognised)
        lost = np.flatnonzero(used & ~(recognised >= 0.5))
        if lost.size:
            shares = ", ".join(f"{c}: {recognised[c]:.0%}" for c in lost[:10])
            raise UnlearningError(
                f"prototypes did not reach their class (recognised share by class: {shares}); "
                "the model may be constant or untrained, otherwise raise steps or learning_rate"
            )
        finite = zip(paths(self.finite), jax.tree.leaves(self.finite), strict=True)
        if broken := [name for name, good in finite if not good]:
            raise UnlearningError(
                f"the sensitivities of {', '.join(broken)} are not finite on the prototypes, which "
                "are: a gradient in these parameters is infinite, not a number, or too large to be "
                "squared; guard the operation that uses them, or leave them out of targets"
            )
        if not self.calibration.converged:
            raise UnlearningError(self._unreachable(request))
        for doubt in self.doubts(request):
            warnings.warn(doubt, UnlearningWarning, stacklevel=3)

    def _unreachable(self, request: Request) -> str:
        """Why no alpha reaches the coverage, and what to do."""
        forget, retain = (
            np.flatnonzero(mask).tolist() for mask in (request.forget, request.retain)
        )
        least, most = (float(share) for share in self.calibration.limits)
        reached = sorted({float(share) for share in self.calibration.reachable})
        shares = " and ".join(f"{share:.4%}" for share in reached)
        begin = f"to forget classes {forget}, no alpha reaches the coverage: "
        if most == 0:
            return (
                f"{begin}no target is sensitive to them in the direction asked for; widen targets"
            )
        if least == most:
            return (
                f"{begin}every alpha selects {least:.4%} of the parameters. Set coverage to a "
                "range that holds that, or widen targets"
            )
        if reached == [least]:
            return (
                f"{begin}{least:.4%} of the parameters have no sensitivity to the retained classes "
                f"{retain}, so every alpha selects them. Set coverage to a range above that, or to "
                '"auto", which takes as many as are needed'
            )
        if reached == [most]:
            return (
                f"{begin}only {most:.4%} of the parameters are sensitive to them in the direction "
                "asked for. Set coverage to a range below that, or widen targets"
            )
        return (
            f"{begin}parameters tie, and the nearest that can be reached is {shares}. Set coverage "
            "to a range that holds one of them"
        )

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
        # What is no image has none.
        measured = self.prototypes.roughness
        roughness = np.zeros(len(used)) if measured is None else np.asarray(measured)
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
        # A single retained class has no other that it could be taken for.
        if self.search is not None and self.search.beyond and retain.sum() > 1:
            doubts.append(
                f"it took {float(self.calibration.coverage):.2%} of the parameters to forget the "
                f"class, more than the {float(self.search.coverages[0]):.2%} that usually do: the "
                "retained classes may have lost accuracy that their prototypes do not show"
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
        that follows from the number of classes (`auto_coverage`). With `within="held_out"` it goes
        beyond that range, up to `MOST`, where none of it forgets the held-out prototypes, and where
        a single class is retained, which cannot be mistaken for another retained one.
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
        decide alone; `log_odds` is the same gradient without that factor. Several classes that are
        forgotten at once are one class to it: their log-odds are those of all of them against the
        rest, so that none is pushed into another. The cross-entropy of each is its own.
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
        default as many as fit (see `ignpx.gradients.moments.ROOM`).
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
    if targets is not None:
        targets = as_patterns(targets)
    transformation = getattr(optax, optimizer)(learning_rate)
    terms = [synthesis.cross_entropy()]
    terms += [getattr(synthesis, name)(value) for name, value in weights.items() if value > 0]

    def patterns(classifier: Classifier) -> tuple[str, ...]:
        return classifier.targets if targets is None else targets

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
        right: Any,
        weights: jax.Array,
        mean_weights: jax.Array | None = None,
    ) -> Moments:
        """Of the prototypes of some classes `(M,)`, with weights `(..., M)`.

        `right` is `(M, num_classes)`, the classes that those prototypes may be taken for.
        """
        return importance.sensitivity_moments(
            classifier,
            *each_sample(prototypes, classes, right, weights, mean_weights),
            loss=sensitivity_losses[sensitivity_loss],
            patterns=patterns(classifier),
            microbatch=microbatch,
        )

    # Compiled, as is what follows the sensitivities: one by one the operations would take as long
    # as the gradients of a small model.
    @_xla.jit
    def each_sample(
        prototypes: synthesis.Prototypes,
        classes: jax.Array,
        right: jax.Array,
        *weights: jax.Array | None,
    ) -> tuple[Any, ...]:
        inputs = prototypes.inputs[classes, :samples]
        return (
            inputs.reshape(-1, *inputs.shape[2:]),
            jnp.repeat(right, samples, axis=0),
            *jax.tree.map(lambda each: jnp.repeat(each, samples, axis=-1), weights),
        )

    def weigh_all(classifier: Classifier, prototypes: synthesis.Prototypes) -> PyTree:
        every = np.arange(classifier.num_classes)
        right, weights = np.eye(len(every), dtype=bool), jnp.full(len(every), 1.0 / samples)
        return moments(classifier, prototypes, every, right, weights).square

    def weigh(
        classifier: Classifier,
        prototypes: synthesis.Prototypes,
        request: Request,
        total: PyTree | None,
    ) -> tuple[PyTree, PyTree]:
        parts = None if total is None else parts_of(request)
        if parts is None:
            total, every = None, np.arange(classifier.num_classes)
            parts = every, np.ones(len(every), bool), np.ones(len(every), bool)
        right, *weights = labelled(request, *parts, total is not None)
        found = moments(classifier, prototypes, parts[0], right, *weights)
        chosen, _ = partition(classifier.params, patterns(classifier))
        return balance(found, chosen, total, request.retain)

    def parts_of(request: Request) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
        """What is weighed where the sum over all classes is known, None for every class.

        The classes that are not retained, so that they can be taken from the sum. Those that are
        forgotten count for themselves; several of them are weighed once more, together.

        Returns:
          Classes, and of each whether it counts among those forgotten and among those taken.
        """
        if checks.traced((request.forget, request.retain)):
            return None
        asked, others = np.flatnonzero(request.forget), np.flatnonzero(~np.asarray(request.retain))
        again = asked if len(asked) > 1 else asked[:0]
        classes = np.concatenate([others, again])
        # Of a sum of which little is retained, little is left, in few digits.
        if len(classes) >= np.sum(request.retain):
            return None
        first = np.arange(len(classes)) < len(others)
        return classes, ~first if len(again) else first, first

    @functools.partial(_xla.jit, static_argnums=4)
    def labelled(
        request: Request,
        classes: jax.Array,
        together: jax.Array,
        alone: jax.Array,
        from_total: bool,
    ) -> tuple[jax.Array, jax.Array, jax.Array | None]:
        """The right classes, the weights of the squares, and those of the gradients."""
        forget = request.forget[classes] & together
        right = jax.nn.one_hot(classes, len(request.forget), dtype=bool)
        if sensitivity_loss == "log_odds":
            right = jnp.where(forget[:, None], request.forget[None], right)
        forgets = _share(forget, request.forget) / samples
        others = (
            alone.astype(jnp.float32)
            if from_total
            else _share(request.retain[classes], request.retain)
        )
        weights = jnp.stack([forgets, others / samples])
        return right, weights, forgets if direction == "supporting" else None

    @_xla.jit
    def balance(
        found: Moments, chosen: PyTree, total: PyTree | None, retained: jax.Array
    ) -> tuple[PyTree, PyTree]:
        forget, retain = (jax.tree.map(lambda leaf, i=i: leaf[i], found.square) for i in (0, 1))
        if total is not None:
            retain = jax.tree.map(
                # Rounding, where the retained classes add next to nothing.
                lambda total, part: (
                    jnp.maximum(total - part, 0.0) / jnp.sum(retained, dtype=part.dtype)
                ),
                total,
                retain,
            )
        if direction == "supporting":
            forget = selection.supporting(forget, found.mean, chosen)
        return forget, retain

    def recognised(classifier: Classifier, prototypes: synthesis.Prototypes) -> jax.Array:
        unseen = prototypes.inputs[:, samples:].reshape(-1, *classifier.input_shape)
        logits = _xla.fast(Classifier.logits)(classifier, unseen)
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
    ) -> tuple[PyTree, selection.CoverageSearch | None, selection.Calibration, PyTree]:
        finite = jax.tree.map(lambda f, r: jnp.all(jnp.isfinite(f + r)), forget, retain)
        if ranking == "forget":
            retain = jax.tree.map(jnp.ones_like, retain)
        ratios = selection.log_ratio(forget, retain)
        total = parameter_count(classifier.params if coverage_of == "model" else ratios)
        limits = auto_coverage(classifier.num_classes) if coverage == "auto" else coverage
        if within == "middle":
            return ratios, None, selection.calibrate(ratios, limits, total=total), finite

        def shares(log_alpha: jax.Array) -> tuple[jax.Array, jax.Array]:
            # XLA computes what the layers below the targets make of the prototypes only once.
            each = recognised(dampen(classifier, ratios, log_alpha), prototypes)
            return _mean(each, request.forget), _mean(each, request.retain)

        tried, beyond = jnp.geomspace(*limits, 16), None
        if coverage == "auto":
            # A single retained class cannot be mistaken for another: nothing bounds the edit.
            widest = jnp.geomspace(limits[0], MOST, 16)
            tried = jnp.where(jnp.sum(request.retain) == 1, widest, tried)
            beyond = jnp.geomspace(limits[1], MOST, 16)
            # What the prototypes choose is taken where it is not the range that was asked for.
            limits = (1 / total, 1.0)
        search = selection.search_coverage(ratios, shares, tried, beyond=beyond, total=total)
        found = selection.calibrate(ratios, limits, at=search.chosen, total=total)
        return ratios, search, found, finite

    def diagnose(
        edited: Classifier, prototypes: synthesis.Prototypes, ratios: PyTree, log_alpha: jax.Array
    ) -> tuple[PyTree, jax.Array]:
        selected = jax.tree.map(jnp.sum, selection.mask(ratios, log_alpha))
        return selected, recognised(edited, prototypes)

    run_synthesis = stage("synthesis", synthesise)
    run_total = stage("sensitivity", weigh_all)
    run_sensitivity = stage("sensitivity", weigh)
    run_calibration = stage("calibration", _xla.jit(calibrate))
    run_dampening = stage("dampening", _xla.jit(dampen))
    run_diagnosis = stage("diagnosis", _xla.jit(diagnose))

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
        ratios, search, calibration, finite = run_calibration(
            classifier, prototypes, request, forget, retain
        )
        edited = run_dampening(classifier, ratios, calibration.log_alpha)
        selected, shares = run_diagnosis(edited, prototypes, ratios, calibration.log_alpha)
        return edited, IgnpInfo(prototypes, calibration, search, selected, shares, finite)

    return Unlearner(Sees.NOTHING, unlearn, prepare=prepare)


# The largest coverage that `coverage="auto"` takes where the prototypes ask for it.
MOST = 0.5


def auto_coverage(num_classes: int) -> tuple[float, float]:
    """The range that `coverage="auto"` searches first: 0.3 to 2.5 % for ten classes."""
    return 0.03 / num_classes, 0.08 / num_classes**0.5


def _share(mask: jax.Array, of: jax.Array) -> jax.Array:
    return mask.astype(jnp.float32) / jnp.sum(of, dtype=jnp.float32)


def _mean(values: jax.Array, mask: jax.Array) -> jax.Array:
    return jnp.sum(jnp.where(mask, values, 0.0)) / jnp.sum(mask, dtype=values.dtype)
