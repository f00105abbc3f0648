"""Requests and samples: what fits a classifier is accepted, what does not is refused."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import strategies as st

from fuzzing.subject import JUNK, AcceptedError, Subject
from ignpx import Classifier, Forgets, Request, Samples, Sees, Unlearner, unlearn
from ignpx.audit import count_correct
from ignpx.data import Normalise

CLASSES = 3
SHAPE = (2, 3, 1)


class _Nothing(NamedTuple):
    def check(self, request: Request) -> None: ...

    def summary(self) -> dict[str, Any]:
        return {}


# It hands back what it is given: all that is tried is what `unlearn` lets through.
THROUGH = {
    sees: Unlearner(sees, lambda c, r, k, *p: (c, _Nothing()), forgets=Forgets.ANY)
    for sees in (Sees.NOTHING, Sees.FORGET, Sees.RETAIN, Sees.BOTH)
}


def _logits(params: Any, x: jax.Array) -> jax.Array:
    return x.reshape(x.shape[0], -1) @ params


def _classifier(**fields: Any) -> Classifier:
    params = np.linspace(-1, 1, 6 * CLASSES, dtype=np.float32).reshape(6, CLASSES)
    return Classifier.from_function(
        _logits, jnp.asarray(params), input_shape=SHAPE, num_classes=CLASSES, **fields
    )


CLASSIFIERS = [_classifier(), _classifier(preprocess=Normalise((0.5,), (0.25,)))]


# Whole classes by their ids.

IDS = st.one_of(
    st.lists(st.integers(-1, 5), max_size=4),
    st.lists(
        st.sampled_from([0, 1, np.int64(2), np.uint8(1), 1.0, 1.5, True, "0", None]), max_size=3
    ),
    st.sampled_from([(0,), {1}, range(2), np.array([0, 2]), np.array([[0]]), np.array(1), "01",
                     iter([0]), {0: 1}, np.array([True, False]), np.array([0.0]), 3, None, [[0]],
                     np.array(["0"]), np.array([], np.int32), [2**70], [float("nan")]]),
    JUNK,
)  # fmt: skip


def _whole(values: Any) -> list[int] | None:
    """The ids if they are whole numbers beyond doubt, None otherwise."""
    if isinstance(values, np.ndarray):
        values = values.tolist() if values.ndim == 1 and values.dtype.kind in "iu" else None
    if not isinstance(values, list | tuple | set | range):
        return None
    whole = all(isinstance(v, int | np.integer) and not isinstance(v, bool) for v in values)
    return [int(v) for v in values] if whole else None


def _request(case: tuple[Any, Any, Any]) -> None:
    forget, classes, forgotten = case
    made = Request.classes(forget, classes, forgotten=forgotten)
    ids, gone = _whole(forget), _whole(forgotten)
    number = _whole([classes])
    if number is None:
        raise AcceptedError(f"num_classes={classes!r}")
    masks = [np.asarray(made.forget), np.asarray(made.retain)]
    assert all(mask.shape == (number[0],) and mask.dtype == bool for mask in masks)
    assert masks[0].any()
    assert masks[1].any()
    assert not (masks[0] & masks[1]).any()
    if ids is None or gone is None:
        if isinstance(forget, str | dict | float | bool | type(None)) or isinstance(forgotten, str):
            raise AcceptedError(f"{forget!r}, {forgotten!r}")
        return
    if len(set(ids)) < len(ids) or set(ids) & set(gone):
        raise AcceptedError(f"{forget!r}, {forgotten!r}")
    assert set(np.flatnonzero(masks[0])) == set(ids)
    assert set(np.flatnonzero(masks[1])) == set(range(number[0])) - set(ids) - set(gone)


def _must_accept(case: tuple[list[int], int, list[int]]) -> None:
    """Requests that are right, in any form of their ids: a refusal is an error."""
    try:
        _request(case)
    except ValueError as error:
        raise AssertionError(f"refused: {error}") from error


@st.composite
def right_requests(draw: st.DrawFn) -> tuple[Any, int, Any]:
    """Ids of some classes, others of which are gone, with one left at least."""
    count = draw(st.integers(2, 8))
    order = draw(st.permutations(range(count)))
    asked = draw(st.integers(1, count - 1))
    gone = draw(st.integers(0, count - 1 - asked))
    forms: list[Callable[[Iterable[int]], Any]]
    forms = [list, tuple, lambda ids: np.array(list(ids), np.int64)]
    form = draw(st.sampled_from(forms))
    return form(order[:asked]), count, list(order[asked : asked + gone])


# Samples: each case is right but for what is named, which makes it wrong (or may be either).


def _images(count: int) -> np.ndarray:
    return (np.arange(count * 6, dtype=np.uint8) * 37).reshape(count, *SHAPE)


def _labels(count: int) -> np.ndarray:
    return (np.arange(count) % CLASSES).astype(np.int32)


Change = Callable[[np.ndarray, np.ndarray], Any]
WRONG: dict[str, Change] = {
    "complex images": lambda x, y: (x.astype(complex), y),
    "NaN": lambda x, y: (np.where(x == x.flat[0], np.nan, x), y),
    "infinite": lambda x, y: (np.where(x == x.flat[0], np.inf, x).astype(np.float32), y),
    "images of text": lambda x, y: (x.astype(str), y),
    "images of objects": lambda x, y: (np.array([None] * len(x)), y),
    "images of dates": lambda x, y: (x.astype("datetime64[s]"), y),
    "no images": lambda x, y: (None, y),
    "transposed": lambda x, y: (x.transpose(0, 3, 1, 2), y),
    "flat": lambda x, y: (x.reshape(len(x), -1), y),
    "no channel": lambda x, y: (x[..., 0], y),
    "another size": lambda x, y: (x[:, :1], y),
    "sides exchanged": lambda x, y: (x.transpose(0, 2, 1, 3), y),
    "one more axis": lambda x, y: (x[None], y),
    "three channels": lambda x, y: (np.repeat(x, 3, -1), y),
    "one image": lambda x, y: (x[0], y),
    "bool labels": lambda x, y: (x, y.astype(bool)),
    "labels (N, 1)": lambda x, y: (x, y[:, None]),
    "one-hot": lambda x, y: (x, np.eye(CLASSES)[y]),
    "labels from one": lambda x, y: (x, y + 1 if len(y) >= CLASSES else y + CLASSES),
    "label -1": lambda x, y: (x, np.where(y == y[-1], -1, y)),
    "label 10**9": lambda x, y: (x, np.where(y == y[-1], 10**9, y)),
    "label 2**40": lambda x, y: (x, np.where(y == y[-1], 2**40, y.astype(np.int64))),
    "label of 2**32": lambda x, y: (x, y.astype(np.int64) + 2**32),
    "half labels": lambda x, y: (x, y + 0.5),
    "labels NaN": lambda x, y: (x, np.full(len(y), np.nan)),
    "labels of text": lambda x, y: (x, y.astype(str)),
    "complex labels": lambda x, y: (x, y.astype(complex)),
    "no labels": lambda x, y: (x, None),
    "one label": lambda x, y: (x, y[0]),
    "fewer labels": lambda x, y: (x, y[:-1]),
    "more labels": lambda x, y: (x, np.append(y, y)),
    "no samples": lambda x, y: (x[:0], y[:0]),
    "exchanged": lambda x, y: (y, x),
}
RIGHT: dict[str, Change] = {
    "as they are": lambda x, y: (x, y),
    "JAX arrays": lambda x, y: (jnp.asarray(x), jnp.asarray(y)),
    "labels int64": lambda x, y: (x, y.astype(np.int64)),
    "labels uint8": lambda x, y: (x, y.astype(np.uint8)),
    "labels big-endian": lambda x, y: (x, y.astype(">i4")),
    "not contiguous": lambda x, y: (np.repeat(x, 2, 0)[::2], np.repeat(y, 2)[::2]),
    "Fortran's order": lambda x, y: (np.asfortranarray(x), y),
}
EITHER: dict[str, Change] = {
    "lists": lambda x, y: (x.tolist(), y.tolist()),
    "images bool": lambda x, y: (x > 100, y),
    "images uint16": lambda x, y: (x.astype(np.uint16), y),
    "images int8": lambda x, y: (x.astype(np.int8), y),
    "images float16": lambda x, y: ((x / 255).astype(np.float16), y),
    "images float32": lambda x, y: ((x / 255).astype(np.float32), y),
    "images 1e300": lambda x, y: (x * 1e300, y),
    "images big-endian": lambda x, y: (x.astype(">f4"), y),
    "whole float labels": lambda x, y: (x, y.astype(np.float32)),
    "masked": lambda x, y: (np.ma.masked_array(x), y),
}
CONTAINERS: dict[str, Callable[[Any, Any], Any]] = {
    "a tuple": lambda x, y: (x, y),
    "a dict": lambda x, y: {"images": x, "labels": y},
    "a list": lambda x, y: [x, y],
    "images alone": lambda x, y: x,
    "text": lambda x, y: "samples",
}


@st.composite
def samples(draw: st.DrawFn) -> tuple[str, bool | None, Any]:
    """A name, whether the samples have to be accepted, and the samples."""
    count = draw(st.sampled_from([1, 4]))
    x, y = _images(count), _labels(count)
    kinds = (WRONG, False), (RIGHT, True), (EITHER, None), (CONTAINERS, False)
    changes, accepted = draw(st.sampled_from(kinds))
    name = draw(st.sampled_from(list(changes)))
    made = changes[name](x, y)
    return name, accepted, made if changes is CONTAINERS else Samples(*made)


def _counted(case: tuple[tuple[str, bool | None, Any], int]) -> None:
    (name, accepted, given), which = case
    counts = _judged(name, accepted, lambda: count_correct(CLASSIFIERS[which], given))
    assert int(np.sum(counts.total)) == len(given.labels)
    assert np.all(np.asarray(counts.correct) <= np.asarray(counts.total))


def _judged(name: str, accepted: bool | None, call: Callable[[], Any]) -> Any:
    try:
        result = call()
    except ValueError as error:
        if accepted and type(error).__module__.startswith("ignpx"):
            raise AssertionError(f"{name} is refused: {error}") from error
        raise
    if accepted is False:
        raise AcceptedError(name)
    return result


def _unlearned(case: tuple[tuple[str, bool | None, Any], int, str]) -> None:
    """Samples in a request: to be forgotten, or retained."""
    (name, accepted, given), which, field = case
    base = {"forget_data": Samples(_images(4), _labels(4)), "retain_data": None}
    request = Request.samples(CLASSES, **{**base, field: given})
    method = THROUGH[Sees.FORGET if field == "forget_data" else Sees.BOTH]
    _judged(name, accepted, lambda: unlearn(method, CLASSIFIERS[which], request, jax.random.key(0)))


# Masks and the other arguments of `unlearn`.

MASKS = st.sampled_from([
    np.array([1, 0, 0], bool), np.array([0, 1, 1], bool), np.array([0, 0, 0], bool),
    np.array([1, 1, 1], bool), np.array([1, 0], bool), np.array([[1, 0, 0]], bool),
    np.array([1, 0, 0]), np.array([1.0, 0, 0]), [True, False, False], None, 0, "mask",
    np.array([0, 1, 2]), jnp.array([True, False, False]), jnp.array([False, True, True]),
    jnp.array([False, True, False]),
])  # fmt: skip
KEYS = st.sampled_from(
    [0, 1.0, None, "key", jax.random.key(0), jax.random.PRNGKey(0), np.zeros(2, np.uint32),
     jax.random.split(jax.random.key(0), 2), -1, 2**40, True]
)  # fmt: skip


RIGHT_MASKS = st.sampled_from(
    [([1, 0, 0], [0, 1, 1]), ([0, 1, 0], [1, 0, 0]), ([1, 0, 1], [0, 1, 0]), ([0, 0, 0], [1, 1, 1])]
).map(lambda pair: tuple(np.array(mask, bool) for mask in pair))


def _masked(case: tuple[tuple[Any, Any], Any, Any]) -> None:
    (forget, retain), key, sees = case
    given = {}
    for name, mask in (("forget_data", forget), ("retain_data", retain)):
        labels = np.flatnonzero(mask) if np.shape(mask) == (CLASSES,) else np.arange(CLASSES)
        labels = (labels if labels.size else np.arange(CLASSES)).astype(np.int32)
        given[name] = Samples(_images(len(labels)), labels)
    unlearn(THROUGH[sees], CLASSIFIERS[0], Request(forget, retain, **given), key)
    masks = [np.asarray(forget), np.asarray(retain)]
    fit = all(mask.shape == (CLASSES,) and mask.dtype == bool for mask in masks)
    if not fit or (masks[0] & masks[1]).any() or not masks[1].any():
        raise AcceptedError(f"{forget!r}, {retain!r}")


def _anything(case: list[Any]) -> None:
    unlearner, classifier, request, key = case
    unlearn(unlearner, classifier, request, key)
    right = (Unlearner, Classifier, Request)
    if not all(isinstance(g, k) for g, k in zip(case, right, strict=False)):
        raise AcceptedError(str(case)[:200])


_ARGUMENTS: tuple[Any, ...] = (
    THROUGH[Sees.NOTHING], CLASSIFIERS[0], Request.classes([0], CLASSES), jax.random.key(0)
)  # fmt: skip
# One of the arguments of `unlearn` is something else.
ARGUMENTS = st.integers(0, 3).flatmap(
    lambda place: st.tuples(
        *(JUNK if at == place else st.just(value) for at, value in enumerate(_ARGUMENTS))
    )
)

SUBJECTS = [
    Subject(
        "requests",
        0.06,
        st.tuples(
            IDS,
            st.integers(1, 6) | JUNK.filter(lambda v: not isinstance(v, int) or v < 10**6),
            IDS | st.just(()),
        ),
        _request,
    ),
    Subject("right requests", 0.03, right_requests(), _must_accept),
    Subject("samples, counted", 0.03, st.tuples(samples(), st.integers(0, 1)), _counted),
    Subject(
        "samples, in requests",
        0.05,
        st.tuples(samples(), st.integers(0, 1), st.sampled_from(["forget_data", "retain_data"])),
        _unlearned,
    ),
    Subject(
        "masks and keys",
        0.03,
        st.tuples(st.tuples(MASKS, MASKS) | RIGHT_MASKS, KEYS, st.sampled_from(list(THROUGH))),
        _masked,
    ),
    Subject("arguments of unlearn", 0.02, ARGUMENTS, _anything),
]
