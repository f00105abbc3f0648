"""A model that computes in bfloat16: which operations do, what is not rounded, and how far off."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

from ignpx import Classifier, InvalidArgumentError, models
from ignpx._xla.tagging import _bodies

SHAPE, CLASSES = (6, 5, 2), 3
FIELDS = {"input_shape": SHAPE, "num_classes": CLASSES}
# What rounding to eight bits changes a number by, relative to it.
ROUNDING = 2.0**-8


class NnxNet(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(2, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, momentum=0.9, rngs=rngs)
        self.head = nnx.Linear(4, CLASSES, rngs=rngs)

    def __call__(self, x):
        return self.head(jnp.tanh(self.norm(self.conv(x))).mean((1, 2)))


class LinenNet(linen.Module):
    @linen.compact
    def __call__(self, x, train: bool):
        x = linen.Conv(4, (3, 3), name="conv")(x)
        x = linen.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x)
        return linen.Dense(CLASSES, name="head")(jnp.tanh(x).mean((1, 2)))


class OwnNorm(linen.Module):
    """Batch norm as somebody wrote it, which returns whatever the statistics promote it to."""

    @linen.compact
    def __call__(self, x, train: bool):
        mean = self.variable("statistics", "mean", jnp.zeros, x.shape[-1])
        now = jnp.mean(x, tuple(range(x.ndim - 1)))
        if train and not self.is_initializing():
            mean.value = 0.9 * mean.value + 0.1 * now.astype(jnp.float32)
        return x - (now if train else mean.value)


class OwnLinenNet(linen.Module):
    @linen.compact
    def __call__(self, x, train: bool):
        x = OwnNorm()(linen.Conv(4, (3, 3))(x), train)
        return linen.Dense(CLASSES)(linen.relu(linen.Conv(4, (3, 3))(x)).mean((1, 2)))


def of_linen(module):
    variables = module.init(jax.random.key(0), jnp.zeros((1, *SHAPE)), train=False)
    return Classifier.from_linen(module, variables, **FIELDS)


def build(kind):
    if kind == "nnx":
        return Classifier.from_nnx(NnxNet(nnx.Rngs(0)), **FIELDS)
    if kind == "linen":
        return of_linen(LinenNet())
    if kind == "own norm":
        return of_linen(OwnLinenNet())
    return models.create(kind, input_shape=(32, 32, 3), num_classes=4, width=0.05)


def operands(jaxpr):
    """How many convolutions and products of matrices have operands of which dtypes."""
    counts = collections.Counter()
    for equation in jaxpr.eqns:
        if equation.primitive.name in ("conv_general_dilated", "dot_general"):
            counts[tuple(str(one.aval.dtype) for one in equation.invars)] += 1
        for body in _bodies(equation):
            counts += operands(body)
    return counts


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize(
    "kind", ["lenet", "resnet9", "cifar_resnet18", "vit_tiny", "nnx", "linen", "own norm"]
)
def test_all_convolutions_and_products_are_of_the_lower_precision(kind, train):
    classifier = build(kind)
    inputs = jnp.zeros((2, *classifier.input_shape))

    def traced(one):
        def loss(params):
            logits, state = one.apply(params, one.state, inputs, train=train)
            return jnp.sum(jnp.square(logits)), (logits, state)

        # JAX's attention sums its scores in float32, and so has their cotangents.
        run = loss if kind == "vit_tiny" else jax.value_and_grad(loss, has_aux=True)
        return jax.make_jaxpr(run)(one.params)

    plain, lower = (traced(one) for one in (classifier, classifier.computing_in("bfloat16")))
    # The gradient, logits and state have the dtypes that they have without.
    assert [str(one) for one in plain.out_avals] == [str(one) for one in lower.out_avals]
    count = operands(plain.jaxpr).total()
    assert operands(lower.jaxpr) == {("bfloat16", "bfloat16"): count}
    assert count >= 2


def moved(classifier, **statistics):
    """The classifier with other running statistics of its one batch norm."""
    state = jax.tree.map(lambda leaf: leaf, classifier.state)
    state.get("batch_stats", state)["norm"].update(statistics)
    return classifier.replace(state=state)


def norm(state):
    return state.get("batch_stats", state)["norm"]


@pytest.mark.parametrize("kind", ["nnx", "linen"])
def test_running_statistics_are_not_rounded(kind):
    # A mean of 100 rounded to eight bits moves by steps of a half, and not by a tenth of one.
    means, variances = jnp.full(4, 100.1, jnp.float32), jnp.full(4, 4.3, jnp.float32)
    classifier = moved(build(kind), mean=means, var=variances)
    conv = classifier.params["conv"]
    # A convolution that hands on the first channel: whole numbers, which eight bits hold.
    kernel = jnp.zeros_like(conv["kernel"]).at[1, 1, 0].set(1.0)
    params = {**classifier.params, "conv": {**conv, "kernel": kernel}}
    lower = classifier.replace(params=params).computing_in("bfloat16")
    inputs = jnp.round(jax.random.normal(jax.random.key(0), (4, *SHAPE)) * 2) + 101
    values = np.asarray(inputs[..., 0], np.float64)

    _, state = lower.apply(lower.params, lower.state, inputs, train=True)
    wanted = 0.9 * np.float64(means) + 0.1 * values.mean()
    np.testing.assert_allclose(norm(state)["mean"], wanted, rtol=1e-6)
    wanted = 0.9 * np.float64(variances) + 0.1 * values.var()
    # The variance is the mean square less the squared mean in Flax, some 10,000 each.
    np.testing.assert_allclose(norm(state)["var"], wanted, atol=4 * 10201 * 2.0**-24)

    _, after, (outputs,) = lower.observed(inputs, train=False)
    assert after is lower.state
    wanted = (values - np.float64(means[0])) / np.sqrt(np.float64(variances[0]) + 1e-5)
    np.testing.assert_allclose(outputs[..., 0], wanted, rtol=1.01 * ROUNDING)
    _, (seen,) = lower.with_statistics(inputs)
    np.testing.assert_allclose(seen.mean, values.mean(), rtol=1e-6)
    np.testing.assert_array_equal(seen.running_mean, means)


def by_hand(params, state, inputs, train, off):
    """Logits, statistics and map of the net, each number that is rounded times `1 + off`."""

    def rounded(name, value):
        return value * (1 + off[name]) if name in off else value

    params = {
        layer: {name: rounded(f"{layer}/{name}", leaf) for name, leaf in leaves.items()}
        for layer, leaves in params.items()
    }
    x = rounded("inputs", inputs)
    window = jax.lax.conv_general_dilated(
        x, params["conv"]["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    x = rounded("conv", rounded("window", window) + params["conv"]["bias"])
    mean, variance = x.mean((0, 1, 2)), x.var((0, 1, 2))
    seen = (mean, variance)
    if not train:
        mean, variance = norm(state)["mean"], norm(state)["var"]
    scale = params["norm"]["scale"] / jnp.sqrt(variance + 1e-5)
    x = outputs = rounded("norm", (x - mean) * scale + params["norm"]["bias"])
    x = rounded("pooled", jnp.mean(rounded("tanh", jnp.tanh(x)), (1, 2)))
    x = rounded("product", x @ params["head"]["kernel"])
    return {"logits": rounded("head", x + params["head"]["bias"]), "seen": seen, "map": outputs}


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("kind", ["nnx", "linen"])
def test_results_are_off_by_no_more_than_rounding_allows(kind, train):
    """To first order: the derivatives in every rounding, their moduli, times half a unit."""
    classifier = build(kind)
    inputs = jax.random.normal(jax.random.key(0), (4, *SHAPE)) * 2 + 1
    # Batch norm's own parameters are not at their initial values, which need no rounding.
    keys = iter(jax.random.split(jax.random.key(1), 20))
    params = jax.tree.map(
        lambda leaf: leaf + 0.3 * jax.random.normal(next(keys), leaf.shape), classifier.params
    )
    classifier = moved(classifier.replace(params=params), mean=jnp.linspace(-0.5, 0.7, 4))
    lower = classifier.computing_in("bfloat16")
    logits, _, (outputs,) = lower.observed(inputs, train=train)
    found = {"logits": logits, "map": outputs}
    if not train:
        _, (seen,) = lower.with_statistics(inputs)
        found["seen"] = (seen.mean, seen.variance)
    np.testing.assert_array_equal(
        logits, lower.apply(lower.params, lower.state, inputs, train=train)[0]
    )

    with jax.enable_x64(True):
        wide = jax.tree.map(
            lambda leaf: jnp.asarray(np.float64(leaf)),
            (classifier.params, classifier.state, inputs),
        )
        shapes = {
            f"{a}/{b}": leaf.shape for a, layer in params.items() for b, leaf in layer.items()
        }
        places = {"inputs": inputs.shape, "pooled": (4, 4), "product": (4, 3), "head": (4, 3)}
        places |= dict.fromkeys(("window", "conv", "norm", "tanh"), (4, *SHAPE[:2], 4))
        off = {name: jnp.zeros(shape) for name, shape in (shapes | places).items()}

        def run(off):
            return by_hand(*wide, train, off)  # type: ignore[call-arg]

        wanted, derivatives = jax.jit(lambda off: (run(off), jax.jacrev(run)(off)))(off)
    for name in found:
        for part, value in enumerate(jax.tree.leaves(found[name])):
            exact = np.asarray(jax.tree.leaves(wanted[name])[part])
            of_part = jax.tree.leaves(derivatives[name], is_leaf=lambda one: isinstance(one, dict))
            bound = sum(
                np.abs(one).reshape(*exact.shape, -1).sum(-1)
                for one in map(np.asarray, of_part[part].values())
            )
            assert np.all(np.abs(value - exact) <= 1.1 * ROUNDING * bound)


def test_the_same_model_in_the_same_precision_is_the_same():
    classifier = build("nnx")
    lower = classifier.computing_in("bfloat16")
    assert classifier.computing_in("float32") is classifier
    assert lower.apply == build("nnx").computing_in("bfloat16").apply != classifier.apply
    with pytest.raises(InvalidArgumentError, match="precision='int8'"):
        classifier.computing_in("int8")
