"""Models of users: plain functions, NNX and Linen modules, that fit or do not."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from hypothesis import strategies as st

from fuzzing.requests import THROUGH
from fuzzing.subject import JUNK, AcceptedError, Subject
from ignpx import Classifier, Request, Sees, unlearn
from ignpx.data import Normalise
from ignpx.methods import METHODS, build

FEATURES, CLASSES = 4, 3

# What a model makes of its logits, and whether a classifier can be made of that.
OUTPUTS: dict[str, tuple[Callable[[Any], Any], bool]] = {
    "logits": (lambda z: z, True),
    "scaled": (lambda z: 2 * z, True),
    "bfloat16": (lambda z: z.astype(jnp.bfloat16), True),
    "a tuple": (lambda z: (z, z), False),
    "a dict": (lambda z: {"logits": z}, False),
    "a list": (lambda z: [z], False),
    "nothing": (lambda z: None, False),
    "text": (lambda z: "logits", False),
    "a number": (lambda z: 1.0, False),
    "classes": (lambda z: z.argmax(-1), False),
    "complex": (lambda z: z + 1j, False),
    "bool": (lambda z: z > 0, False),
    "int8": (lambda z: z.astype(jnp.int8), False),
    "summed": (lambda z: z.sum(), False),
    "one logit": (lambda z: z[:, :1], False),
    "no classes": (lambda z: z[:, 0], False),
    "an axis more": (lambda z: z[:, None], False),
    "transposed": (lambda z: z.T, False),
    "one of the batch": (lambda z: z[0], False),
    "NumPy's": (lambda z: np.asarray(z), False),
    "a branch": (lambda z: z if z.sum() > 0 else -z, False),
    "an error": (lambda z: dict[str, Any]()["missing"], False),
    "an empty error": (lambda z: (_ for _ in ()).throw(RuntimeError()), False),
    "an assertion": (lambda z: (_ for _ in ()).throw(AssertionError("mine")), False),
}
# What the weights are, and whether that can be served.
LEAVES: dict[str, tuple[Callable[[np.ndarray], Any], bool | None]] = {
    "JAX": (jnp.asarray, True),
    "NumPy": (lambda w: w, True),
    "float16": (lambda w: w.astype(np.float16), True),
    "bfloat16": (lambda w: jnp.asarray(w, jnp.bfloat16), True),
    "float64": (lambda w: w.astype(np.float64), None),
    "int32": (lambda w: w.astype(np.int32), False),
    "bool": (lambda w: w > 0, False),
    "complex": (lambda w: w.astype(np.complex64), False),
    "list": (lambda w: w.tolist(), None),
    "text": (lambda w: "weights", False),
    "objects": (lambda w: w.astype(object), False),
    "none": (lambda w: None, False),
    "number": (lambda w: 2.0, None),
    "key": (lambda w: jax.random.key(0), False),
    "wrong shape": (lambda w: w.T, False),
    "empty": (lambda w: w[:0], False),
    "NaN": (lambda w: w * np.nan, None),
}
SHAPES = st.sampled_from([(FEATURES,)] * 4 + [
    [FEATURES], FEATURES, (), (0,), (-1,), (4.0,), "4", None, (np.int64(4),), (2, 2), (5,), (4, 1),
    (True,), ("4",), (10**12,), {4}, ((4,),), np.array([4]),
])  # fmt: skip
NUMBERS = st.sampled_from([CLASSES] * 6 + [
    2, 4, 0, 1, -3, 3.0, "3", None, True, np.int32(3), [3], 10**12
])  # fmt: skip
EXTRA = st.fixed_dictionaries(
    {},
    optional={
        "targets": st.sampled_from(
            [(".*",), (), ("nothing",), "w", ("(",), 3, None, [".*"], (1,), "", ("",), ("w", "w")]
        ),
        "preprocess": st.sampled_from([
            lambda x: x, Normalise((0.5,), (0.25,)), None, 3, "x", len, lambda: None,
            [lambda x: x], {}, Normalise,
        ]),
        "initialise": st.sampled_from([None, 3, lambda key: ({}, {}), "x"]),
    },
)  # fmt: skip
FIELDS = st.builds(
    lambda shape, number, extra: {"input_shape": shape, "num_classes": number, **extra},
    SHAPES,
    NUMBERS,
    st.one_of(st.just({}), EXTRA),
)


class Dense(nnx.Module):
    """One layer, whose output is changed."""

    def __init__(self, output: str, extra: Any = None):
        self.layer = nnx.Linear(FEATURES, CLASSES, rngs=nnx.Rngs(0))
        self.norm = nnx.BatchNorm(FEATURES, rngs=nnx.Rngs(0))
        self.output = output
        if extra is not None:
            self.extra = extra

    def __call__(self, x: jax.Array) -> Any:
        return OUTPUTS[self.output][0](self.layer(self.norm(x)))


class LinenDense(nn.Module):
    """As `Dense`."""

    output: str

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> Any:
        x = nn.BatchNorm(use_running_average=not train)(x)
        return OUTPUTS[self.output][0](nn.Dense(CLASSES)(x))


def _fits(fields: dict[str, Any]) -> bool:
    plain = set(fields) == {"input_shape", "num_classes"}
    return plain and repr(fields) == repr({"input_shape": (FEATURES,), "num_classes": CLASSES})


def _check(handle: Classifier) -> None:
    """What holds of every handle: logits as they should be, and a method that goes through."""
    assert handle.num_classes == CLASSES
    inputs = jax.ShapeDtypeStruct((5, *handle.input_shape), jnp.float32)
    logits = jax.eval_shape(Classifier.logits, handle, inputs)
    assert logits.shape == (5, CLASSES)
    assert jnp.issubdtype(logits.dtype, jnp.floating)
    for leaf in jax.tree.leaves((handle.params, handle.state)):
        assert isinstance(leaf, jax.Array), type(leaf)
    hash(handle.apply), hash(handle.preprocess)
    request = Request.classes([0], CLASSES)
    unlearn(THROUGH[Sees.NOTHING], handle, request, jax.random.key(0))


def _made(make: Callable[[], Classifier], *, right: bool, wrong: bool, name: str) -> None:
    try:
        handle = make()
    except ValueError as error:
        if right and type(error).__module__.startswith("ignpx"):
            raise AssertionError(f"{name} is refused: {error}") from error
        raise
    if wrong:
        raise AcceptedError(name)
    _check(handle)


def _function(case: tuple[str, str, dict[str, Any]]) -> None:
    output, kind, fields = case
    change, accepted = LEAVES[kind]
    weights = np.linspace(-1, 1, FEATURES * CLASSES, dtype=np.float32).reshape(FEATURES, CLASSES)
    make, served = OUTPUTS[output]
    params = {"w": change(weights), "b": jnp.zeros(CLASSES)}

    def apply(params: Any, x: jax.Array) -> Any:
        return make(x @ params["w"] + params["b"])

    _made(
        lambda: Classifier.from_function(apply, params, **fields),
        right=served and accepted is True and _fits(fields),
        wrong=not served or accepted is False,
        name=f"{output}, weights {kind}, {fields}",
    )


EXTRAS: dict[str, Callable[[], Any]] = {
    "none": lambda: None,
    "a counter": lambda: nnx.Variable(0),
    "a number": lambda: nnx.Param(5.0),
    "integers": lambda: nnx.Param(jnp.arange(3)),
    "text": lambda: "x",
    "a list": lambda: nnx.List([nnx.Param(jnp.ones(2))]),
    "dropout": lambda: nnx.Dropout(0.5, rngs=nnx.Rngs(0)),
    "a function": lambda: len,
}


def _nnx(case: tuple[str, str, dict[str, Any]]) -> None:
    output, extra, fields = case
    served = OUTPUTS[output][1]
    _made(
        lambda: Classifier.from_nnx(Dense(output, EXTRAS[extra]()), **fields),
        right=served and extra in ("none", "text", "a list", "dropout") and _fits(fields),
        wrong=not served,
        name=f"{output}, with {extra}, {fields}",
    )


VARIABLES: dict[str, tuple[Callable[[Any], Any], bool]] = {
    "as they are": (lambda v: v, True),
    "no statistics": (lambda v: {"params": v["params"]}, False),
    "no parameters": (lambda v: {"batch_stats": v["batch_stats"]}, False),
    "parameters alone": (lambda v: v["params"], False),
    "nothing": (lambda v: None, False),
    "empty": (lambda v: {}, False),
    "a list": (lambda v: [v], False),
    "text": (lambda v: {**v, "params": "x"}, False),
}


def _linen(case: tuple[str, str, dict[str, Any]]) -> None:
    output, kind, fields = case
    change, accepted = VARIABLES[kind]
    served = OUTPUTS[output][1]
    _made(
        lambda: Classifier.from_linen(LinenDense(output), change(_initial()), **fields),
        right=served and accepted and _fits(fields),
        wrong=not (served and accepted),
        name=f"{output}, variables {kind}, {fields}",
    )


def _initial() -> Any:
    if not _KEPT:
        _KEPT.append(LinenDense("logits").init(jax.random.key(0), jnp.zeros((1, FEATURES))))
    return _KEPT[0]


_KEPT: list[Any] = []


def _exchanged(case: tuple[str, Any, dict[str, Any]]) -> None:
    """Something else in the place of the model."""
    way, given, fields = case
    make = getattr(Classifier, way)
    if way == "from_nnx":
        make(given, **fields)
    else:
        make(given, {"params": {"w": jnp.ones((FEATURES, CLASSES))}}, **fields)
    raise AcceptedError(f"{way}({given!r})")


MODELS: st.SearchStrategy[Any] = st.sampled_from(
    [Dense, LinenDense, LinenDense("logits"), 3, None, "lenet", {}, [], np.ones(3), jnp.ones]
)


def _forgotten(case: tuple[str, int, int]) -> None:
    """A method for real, on two layers."""
    method, forget, seed = case
    rng = np.random.default_rng(seed)
    params = {
        "hidden": jnp.asarray(rng.normal(size=(FEATURES, 5)), jnp.float32),
        "out": jnp.asarray(rng.normal(size=(5, CLASSES)), jnp.float32),
    }
    handle = Classifier.from_function(
        _two_layers, params, input_shape=(FEATURES,), num_classes=CLASSES
    )
    built = build(method, _FREE[method])
    edited, info = unlearn(built, handle, Request.classes([forget], CLASSES), jax.random.key(seed))
    for leaf, before in zip(*map(jax.tree.leaves, (edited.params, params)), strict=True):
        assert leaf.shape == before.shape
        assert leaf.dtype == before.dtype
        assert np.isfinite(np.asarray(leaf)).all()
    assert isinstance(info.summary(), dict)


def _two_layers(params: Any, x: jax.Array) -> jax.Array:
    return jnp.tanh(x @ params["hidden"]) @ params["out"]


_FREE: dict[str, dict[str, Any]] = {
    name: {"steps": 8, "samples": 2, "held_out": 2} for name in METHODS if name.startswith("ignp")
}
OUT = st.sampled_from([*OUTPUTS, *["logits"] * len(OUTPUTS)])

SUBJECTS = [
    Subject(
        "functions",
        0.02,
        st.tuples(OUT, st.sampled_from([*LEAVES, *["JAX"] * len(LEAVES)]), FIELDS),
        _function,
    ),
    Subject("NNX modules", 0.012, st.tuples(OUT, st.sampled_from(list(EXTRAS)), FIELDS), _nnx),
    Subject(
        "Linen modules",
        0.012,
        st.tuples(OUT, st.sampled_from([*VARIABLES, *["as they are"] * 6]), FIELDS),
        _linen,
    ),
    Subject(
        "something else for a model",
        0.006,
        st.tuples(
            st.sampled_from(["from_nnx", "from_linen", "from_function"]), MODELS | JUNK, FIELDS
        ),
        _exchanged,
    ),
    Subject(
        "methods on a model",
        0.01,
        st.tuples(st.sampled_from(list(_FREE)), st.integers(0, CLASSES - 1), st.integers(0, 50)),
        _forgotten,
    ),
]
