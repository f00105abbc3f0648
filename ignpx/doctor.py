"""A doctor for classifiers: faults that spoil unlearning, found in seconds without data."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ignpx import targets
from ignpx.classifier import Classifier, check_handle, identity
from ignpx.targets import PyTree

__all__ = ["Finding", "Findings", "check"]


def __dir__() -> list[str]:
    return __all__


# Inputs of noise that the model is tried on.
COUNT = 16
# The widths of a plausible range of inputs. Standard deviations of intensities from 0 to 1 are at
# most 0.5, so that normalised images have a width of 2 at least; without normalisation it is 1. A
# synthesis of 200 steps of 0.1 moves an input by 20 at most, up or down.
WIDTHS = (0.5, 40.0)
# The factor between the variance of noise and that of the training data in the first batch norm.
# Three ResNet18 of CIFAR-10 have 0.85 to 1.20 by `ignpx check`, and inputs from 0 to 255 for 0 to 1
# make it 65,025.
SCALE = 100.0
# The mean probability of a class that is nearly certain. Fifteen LeNets and ResNet18 of MNIST and
# CIFAR-10 that were trained to their usual accuracy have 0.33 to 0.86 by `ignpx check`.
CERTAIN = 0.999


class Finding(NamedTuple):
    """The outcome of one check.

    Attributes:
      name: of the check.
      passed: whether the classifier is sound in this respect.
      value: what was found; its kind depends on the check, see `check`. The text of an error if the
        classifier raised one.
      advice: what to do; empty if there is nothing to do.
    """

    name: str
    passed: bool
    value: Any
    advice: str


class Findings(tuple[Finding, ...]):
    """The outcomes of all checks, in their order; printed one a line."""

    @property
    def passed(self) -> bool:
        """Whether all checks have passed."""
        return all(one.passed for one in self)

    def __str__(self) -> str:
        width = max(len(one.name) for one in self)
        return "\n".join(
            f"{'ok  ' if one.passed else 'FAIL'}  {one.name:{width}}  {_shown(one.value)}".rstrip()
            + (f"\n      {one.advice}" if one.advice else "")
            for one in self
        )

    __repr__ = __str__


def check(classifier: Classifier) -> Findings:
    """Looks for faults of a classifier that spoil unlearning, on noise and without data.

    | check | sound if | value |
    | --- | --- | --- |
    | input range | `Classifier.bounds` are those of normalised inputs, or not known | both bounds |
    | statistics | the first batch norm sees noise on the scale of its data | ratio of variances |
    | logits finite | for noise, for zeros and for both bounds | share of finite logits |
    | noise | no class has nearly all probability for all noise | largest mean probability |
    | inputs | a gradient in the inputs, by which synthesis moves them | share other than zero |
    | gradients | every parameter that the targets select moves some logit | paths that do not |
    | deterministic | two calls, traced anew, give equal bits | share of logits that differ |
    | independent samples | other samples and places change no logits | relative difference |

    Args:
      classifier: of any kind.

    Returns:
      The `Findings`, a tuple of one `Finding` a check. Whatever the model raises is a finding.

    Raises:
      InvalidArgumentError: if it is no classifier.
    """
    check_handle(classifier)
    return Findings(_found(name, one, classifier) for name, one in _CHECKS.items())


# Whether it is sound, the value, and advice.
_Outcome = tuple[bool, Any, str]


def _found(name: str, one: Callable[[Classifier], _Outcome], classifier: Classifier) -> Finding:
    try:
        return Finding(name, *one(classifier))
    except Exception as error:  # whatever a user's model may raise
        said = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        return Finding(name, False, said, "the model raised this on a batch of inputs; mend it")


def _input_range(classifier: Classifier) -> _Outcome:
    if classifier.bounds is None:
        image = len(classifier.input_shape) == 3 and classifier.preprocess is identity
        note = "no preprocessing is known, so that synthesised images may leave the range of pixels"
        return True, None, f"{note}; give preprocess=ignpx.data.Normalise(mean, std)" * image
    low, high = (np.asarray(bound, np.float64) for bound in classifier.bounds)
    narrowest, widest = np.min(high - low), np.max(high - low)
    sound = (
        narrowest >= WIDTHS[0] and widest <= WIDTHS[1] and np.all(low <= 0) and np.all(high >= 0)
    )
    advice = (
        f"normalised inputs have zero in their range, which is {WIDTHS[0]:g} to {WIDTHS[1]:g} "
        "wide: give `preprocess` the mean and the standard deviation of intensities from 0 to 1"
    )
    return bool(sound), (float(low.min()), float(high.max())), "" if sound else advice


def _statistics(classifier: Classifier) -> _Outcome:
    ratio = _spread(classifier, _probes(classifier)[:-_CONSTANT])
    if ratio is None:
        return True, None, ""
    sound = 1 / SCALE < float(ratio) < SCALE
    advice = (
        "standard normal noise is on another scale than the data that the first batch norm "
        "remembers: give the model inputs that are scaled as in its training"
    )
    return sound, float(ratio), "" if sound else advice


def _finite(classifier: Classifier) -> _Outcome:
    finite = np.isfinite(_logits(classifier, _probes(classifier)))
    advice = "the model overflows or divides by zero; restore a sound checkpoint or mend the model"
    return bool(finite.all()), float(finite.mean()), "" if finite.all() else advice


def _noise(classifier: Classifier) -> _Outcome:
    logits = _sound(_logits(classifier, _probes(classifier)))[:-_CONSTANT]
    mean = np.asarray(jax.nn.softmax(logits)).mean(axis=0)
    value, sound = float(mean.max()), bool(mean.max() < CERTAIN)
    advice = (
        f"noise is class {mean.argmax()} to the model, nearly for certain: synthesis cannot tell "
        "what it knows of that class; check the preprocessing, or train with less confidence"
    )
    return sound, value, "" if sound else advice


def _inputs(classifier: Classifier) -> _Outcome:
    value = float(_reached(classifier, _probes(classifier))[1])
    advice = (
        "no logit depends on the inputs to first order, so that nothing can be synthesised: take "
        "inputs before they are rounded, such as embeddings of tokens"
    )
    return value > 0, value, "" if value > 0 else advice


def _gradients(classifier: Classifier) -> _Outcome:
    reached, _ = _reached(classifier, _probes(classifier))
    chosen, _ = targets.partition(reached, classifier.targets)
    names = zip(targets.paths(chosen), jax.tree.leaves(chosen), strict=True)
    unreached = [name for name, moves in names if not moves]
    advice = (
        "no logit depends on these parameters to first order: they are unused, behind "
        "`stop_gradient`, or behind a scale of zero as before training; leave them out of `targets`"
    )
    return not unreached, unreached, advice if unreached else ""


def _deterministic(classifier: Classifier) -> _Outcome:
    first, second = (_logits(classifier, _probes(classifier), anew=anew) for anew in (False, True))
    differing = first.view(np.uint8) != second.view(np.uint8)
    share = float(differing.reshape(*first.shape, -1).any(axis=-1).mean())
    advice = "the model draws random numbers in evaluation mode; draw none there, or from a key"
    return not share, share, advice if share else ""


def _independent(classifier: Classifier) -> _Outcome:
    probes = _probes(classifier)
    others = -probes
    others = others.at[0].set(probes[0]).at[-1].set(probes[0])
    alone, beside = (_sound(_logits(classifier, inputs)) for inputs in (probes, others))
    scale = np.abs(alone[0]).max() or 1.0
    value = float(np.abs(beside[[0, -1]] - alone[0]).max() / scale)
    # Logits may be rounded otherwise at another place; numbers in bfloat16 have 8 bits.
    sound = value < 2.0**-6
    advice = (
        "the logits of a sample depend on its batch: batch norm or dropout is in training mode; "
        "name the mode of the call `train` or `deterministic`, or fix it in the model"
    )
    return sound, value, "" if sound else advice


_CHECKS: dict[str, Callable[[Classifier], _Outcome]] = {
    "input range": _input_range,
    "statistics": _statistics,
    "logits finite": _finite,
    "noise": _noise,
    "inputs": _inputs,
    "gradients": _gradients,
    "deterministic": _deterministic,
    "independent samples": _independent,
}

# The last of the inputs that the model is tried on: zeros, and both ends of the range.
_CONSTANT = 3


def _probes(classifier: Classifier) -> jax.Array:
    """Noise as synthesis starts from, and the last `_CONSTANT`: `(COUNT, *input_shape)`."""
    shape = (COUNT, *classifier.input_shape)
    low, high = classifier.bounds or (-3.0, 3.0)
    noise = jnp.clip(jax.random.normal(jax.random.key(0), shape), low, high)
    ends = [jnp.broadcast_to(jnp.asarray(end, noise.dtype), shape[1:]) for end in (0.0, low, high)]
    return noise.at[-_CONSTANT:].set(jnp.stack(ends))


def _logits(classifier: Classifier, inputs: jax.Array, *, anew: bool = False) -> np.ndarray:
    """The logits in float32; `anew` traces and compiles the model once more."""
    run = jax.jit(lambda classifier, inputs: _run(classifier, inputs)) if anew else _compiled
    return np.asarray(run(classifier, inputs))


def _run(classifier: Classifier, inputs: jax.Array) -> jax.Array:
    return classifier.logits(inputs).astype(jnp.float32)


_compiled = jax.jit(_run)


def _sound(logits: np.ndarray) -> np.ndarray:
    """Zeros for what is not finite, which is a finding of its own."""
    return np.nan_to_num(logits, nan=0.0, posinf=0.0, neginf=0.0)


@jax.jit
def _spread(classifier: Classifier, inputs: jax.Array) -> jax.Array | None:
    """The variance of inputs in the first batch norm over its running variance, median."""
    _, layers = classifier.with_statistics(inputs)
    return jnp.median(layers[0].variance / layers[0].running_variance) if layers else None


@jax.jit
def _reached(classifier: Classifier, inputs: jax.Array) -> tuple[PyTree, jax.Array]:
    """Where the gradient of a random sum of logits is not zero.

    Returns:
      Whether it is so somewhere in each parameter, and the share of the inputs.
    """

    def total(params: PyTree, inputs: jax.Array) -> jax.Array:
        logits = _run(classifier.replace(params=params), inputs)
        return jnp.vdot(jax.random.normal(jax.random.key(1), logits.shape), logits)

    of_params, of_inputs = jax.grad(total, argnums=(0, 1))(classifier.params, inputs)
    return jax.tree.map(lambda one: jnp.any(one != 0), of_params), jnp.mean(of_inputs != 0)


def _shown(value: Any) -> str:
    if isinstance(value, list):
        more = [f"and {len(value) - 3} more"] if len(value) > 3 else []
        return ", ".join([*value[:3], *more])
    if isinstance(value, tuple):
        return " to ".join(f"{one:.3g}" for one in value)
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
