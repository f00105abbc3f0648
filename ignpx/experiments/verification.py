"""Verification of a receipt: the unlearned classifier is made again and compared.

On the kind of device and with the versions of the receipt, equal arguments give equal bits, and
anything else is a mismatch. Elsewhere sums are rounded in another order, and what that does to a
method is measured, not guessed. A sum of n products that is rounded is the exact sum of products
whose factors are off by about `sqrt(n)` units in the last place each (N. J. Higham and T. Mary, "A
New Approach to Probabilistic Rounding Error Analysis", SIAM J. Sci. Comput. 41, 2019). The weights
of the original are therefore perturbed by that much and unlearned from again. How far the change
then moves is how far rounding moves it.
"""

import dataclasses
import math
import os
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ignpx.classifier import Classifier
from ignpx.errors import InvalidArgumentError
from ignpx.experiments import (
    asking,
    checkpoint,
    environment,
    receipts,
    records,
    scenarios,
    unlearning,
)
from ignpx.experiments.datasets import TFDS_DEFAULT, Where
from ignpx.methods import defaults
from ignpx.request import Request

DRAWS = 2  # perturbed originals
MARGIN = 4.0  # how many times what they make is still rounding: two draws show no extremes
MOST = 0.5**0.5  # squared lengths add: more of the change is shared than is not
ORDERED = "--xla_gpu_deterministic_ops=true"


class Verification(NamedTuple):
    """What came of a verification.

    Attributes:
      matches: whether the receipt holds.
      exactly: whether the result is that of the receipt bit for bit.
      said: the outcome in words.
      arrays: the paths of the arrays that differ: of the given checkpoint, or else of the result.
      elsewhere: how device and versions differ from the receipt's, a sentence part each.
      distance: the distance of the recomputed change from the receipt's over the size of the
        change, estimated to 9 %; None where nothing had to be estimated.
      rounding: the largest distance that perturbations of the size of rounding make.
    """

    matches: bool
    exactly: bool
    said: str
    arrays: tuple[str, ...] = ()
    elsewhere: tuple[str, ...] = ()
    distance: float | None = None
    rounding: float | None = None


def verify(
    receipt: str | os.PathLike[str],
    original: str | os.PathLike[str],
    *,
    unlearned: str | os.PathLike[str] | None = None,
    model: str | None = None,
    where: Where = TFDS_DEFAULT,
) -> Verification:
    """Unlearns again by a receipt, and compares.

    Args:
      receipt: the file, or the run that has it.
      original: directory of the run or the checkpoint that the receipt is of.
      unlearned: directory of the unlearned run or checkpoint; it is first held to the receipt, to
        the bit on any device.
      model: see `ignpx.experiments.checkpoint.load`.
      where: see `Where`; needed for methods that see data.

    Raises:
      InvalidArgumentError: if the receipt cannot be used or is not of this original, its method is
        not here, or its data are others.
      UnlearningError: if the method fails here.
    """
    held = receipts.read(receipt)
    original = pathlib.Path(original)
    loaded = checkpoint.load(checkpoint.in_run(original), model=model)
    _check_original(held, original, *loaded)
    if unlearned is not None:
        given = checkpoint.in_run(pathlib.Path(unlearned))
        edited, _ = checkpoint.load(given, like=loaded[0])
        if other := _differing(held, edited):
            return _mismatch(f"{unlearned} is not the checkpoint of the receipt", other)
        if not (told := _reported(held, loaded[0], edited)).matches:
            return told
    asked, request = _asked(held, receipt, original, loaded, where)

    def again(classifier: Classifier) -> Classifier:
        key = jax.random.key(held.seed)
        prepared = None
        if held.prepared and asked.chosen.prepare is not None:
            prepared = asked.chosen.prepare(classifier, key)
        return unlearning.perform(asked.chosen, classifier, request, key, prepared)[0]

    elsewhere = _elsewhere(held)
    edited = again(asked.classifier)
    other = _differing(held, edited)
    if not other:
        return _reported(held, asked.classifier, edited)._replace(elsewhere=elsewhere)
    if not elsewhere:
        said = "it does not match, on the kind of device and with the versions of the receipt"
        return _mismatch(said, other)
    moved, rounding = _compared(held, asked.classifier, edited, again)
    matches, said = _judged(moved, rounding)
    return Verification(matches, False, said, tuple(other), elsewhere, moved, rounding)


def _reported(held: records.Receipt, original: Classifier, edited: Classifier) -> Verification:
    """The outcome for equal bits: whether what the receipt says of the change is right, too."""
    changed, sketch = receipts.changes(original, edited)
    told = held.model_dump(include={"changed", "sketch"})
    for name, value in (("changed", changed), ("sketch", tuple(sketch.tolist()))):
        if told[name] != value:
            said = f"its arrays match bit for bit, and its field {name} is not what they give"
            return Verification(False, True, said)
    return Verification(True, True, "it matches bit for bit")


def _mismatch(said: str, other: list[str]) -> Verification:
    return Verification(False, False, f"{said}: {_few(other)}", tuple(other))


def _few(names: list[str]) -> str:
    more = f" and {len(names) - 3} more arrays" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more} differ"


def _check_original(
    held: records.Receipt, path: pathlib.Path, classifier: Classifier, config: dict[str, Any]
) -> None:
    here = records.check(records.Handle, checkpoint.handle(classifier), "original", path)
    run = records.check(records.Run, config, "original", path)
    pairs = {
        **{name: (value, getattr(held.classifier, name)) for name, value in here},
        "unlearning": ([*run.unlearning], [*held.past]),
        "without": (run.without, held.without),
    }
    for name, (found, wanted) in pairs.items():
        if found != wanted:
            raise InvalidArgumentError(
                "original",
                str(path),
                f"is not the receipt's: its {name} is {found}, the receipt has {wanted}; name the "
                "run that was unlearned from",
            )
    prints = checkpoint.fingerprints(checkpoint.arrays_of(classifier))
    if other := receipts.differing(held.before.arrays, prints):
        raise InvalidArgumentError(
            "original",
            str(path),
            f"is not the receipt's: {_few(other)}; its digest is {checkpoint.combined(prints)}, "
            f"the receipt has {held.before.sha256}; name the run that was unlearned from",
        )


def _asked(
    held: records.Receipt,
    receipt: str | os.PathLike[str],
    original: pathlib.Path,
    loaded: tuple[Classifier, dict[str, Any]],
    where: Where,
) -> tuple[asking.Asked, Request]:
    """What the receipt asks for, once it is known that it can be had here."""
    parts = ("forget", "forget_subclass", "forget_random", "forget_seed", "forget_poisoned")
    scenario = scenarios.read(held.model_dump(include={*parts}, exclude_none=True))
    try:
        usual = receipts.as_json(defaults(held.method))
        settings = {n: v for n, v in held.settings.items() if n not in usual or v != usual[n]}
        asked = asking.ask(original, loaded, scenario, method=held.method, settings=settings)
    except InvalidArgumentError as error:
        differ = "".join(f"; {one}" for one in _elsewhere(held))
        raise InvalidArgumentError(
            "receipt", str(receipt), f"cannot be done again here: {error}{differ}"
        ) from error
    request, _ = asking.request_of(asked, where)
    here = receipts.data_of(request, asked.chosen.sees)
    there = held.model_dump(include={*here})
    for name, value in here.items():
        if value != there[name]:
            raise InvalidArgumentError(
                "original",
                str(original),
                f"what the method is given of it is something else here: {name} is {value}, the "
                f"receipt has {there[name]}; take the dataset that the receipt was made with",
            )
    return asked, request


def _elsewhere(held: records.Receipt) -> tuple[str, ...]:
    """How versions and device differ from those of the receipt."""
    here = {**environment.versions(held.method), **environment.device()}
    there = {**held.versions, **held.device}
    found = [
        f"{name} is {here.get(name)!r} here, {there.get(name)!r} in the receipt"
        for name in dict.fromkeys([*there, *here])
        if here.get(name) != there.get(name)
    ]
    if here["platform"] == "gpu" and ORDERED not in here["xla_flags"]:
        found.append(f"a GPU may add in another order each time without XLA_FLAGS={ORDERED}")
    return tuple(found)


def _differing(held: records.Receipt, classifier: Classifier) -> list[str]:
    prints = checkpoint.fingerprints(checkpoint.arrays_of(classifier))
    return receipts.differing(held.after.arrays, prints)


def _compared(
    held: records.Receipt,
    original: Classifier,
    edited: Classifier,
    again: Callable[[Classifier], Classifier],
) -> tuple[float, float]:
    """How far the change is from the receipt's, and how far rounding moves it, over its size."""
    _, here = receipts.changes(original, edited)
    # The size of what the receipt claims, if nothing changes here: the distance is then 1.
    size = float(np.linalg.norm(here)) or float(np.linalg.norm(held.sketch)) or math.inf

    def distance(sketch: Any) -> float:
        return float(np.linalg.norm(here - np.asarray(sketch))) / size

    def made(
        perturb: Callable[[Classifier, int], Classifier],
    ) -> list[tuple[Classifier, Classifier]]:
        perturbed = (perturb(original, draw) for draw in range(DRAWS))
        return [(one, again(one)) for one in perturbed]

    pairs, known = made(rounded), checkpoint.digest(checkpoint.arrays_of(edited))
    unmoved = all(checkpoint.digest(checkpoint.arrays_of(one)) == known for _, one in pairs)
    if unmoved and original.initialise is not None:  # a new model is trained, as by `retrain`
        pairs = made(_rounded_anew)
    rounding = max(distance(receipts.changes(*pair)[1]) for pair in pairs)
    return distance(held.sketch), rounding


def rounded(classifier: Classifier, draw: int) -> Classifier:
    """The classifier with its numbers off by what rounding amounts to, see the module."""
    params, state = _off((classifier.params, classifier.state), draw)
    return classifier.replace(params=params, state=state)


def _rounded_anew(classifier: Classifier, draw: int) -> Classifier:
    return classifier.replace(initialise=_RoundedInitialise(classifier.initialise, draw))


@dataclasses.dataclass(frozen=True)
class _RoundedInitialise:
    """As `rounded`, of what a model starts from."""

    initialise: Any
    draw: int

    def __call__(self, key: jax.Array) -> Any:
        return _off(self.initialise(key), self.draw)


def _off(tree: Any, draw: int) -> Any:
    generator = np.random.default_rng(draw)

    def leaf(array: jax.Array) -> jax.Array:
        if not jnp.issubdtype(array.dtype, jnp.floating):
            return array
        summed = array.size / (array.shape or (1,))[-1]
        off = float(jnp.finfo(array.dtype).eps) * math.sqrt(summed)
        factors = 1 + off * generator.uniform(-1, 1, array.shape)
        return array * jnp.asarray(factors, array.dtype)

    return jax.tree.map(leaf, tree)


def _judged(moved: float, rounding: float) -> tuple[bool, str]:
    limit = MARGIN * rounding
    figures = (
        f"the change is off the receipt's by {moved:.2g} of its size, and rounding moves it by up "
        f"to {rounding:.2g}"
    )
    if moved <= min(limit, MOST):
        return True, f"it matches within rounding: {figures} (limit {min(limit, MOST):.2g})"
    there = "verify on the kind of device and with the versions of the receipt"
    if limit > MOST:
        return False, f"it cannot be told here whether it matches: {figures}; {there}"
    return False, f"it does not match within rounding: {figures} (limit {limit:.2g}); {there}"
