import jax
import jax.numpy as jnp
import pytest
from flax import linen

from ignpx import Classifier, InvalidArgumentError, _xla, models, targets

PARAMS = {
    "conv2": {"kernel": jnp.zeros((2, 3)), "bias": jnp.zeros(3)},
    "conv21": {"kernel": jnp.zeros(5)},
    "fc": {0: {"kernel": jnp.zeros(7)}, 1: {"kernel": jnp.zeros(11)}},
}


def chosen(*patterns):
    return set(targets.paths(targets.partition(PARAMS, patterns)[0]))


def test_a_pattern_ends_at_a_slash():
    assert chosen("conv2") == {"conv2/bias", "conv2/kernel"}
    assert chosen("fc/1") == {"fc/1/kernel"}
    assert chosen(".*/kernel") == {"conv2/kernel", "conv21/kernel", "fc/0/kernel", "fc/1/kernel"}
    assert chosen("conv2", "fc") == {"conv2/bias", "conv2/kernel", "fc/0/kernel", "fc/1/kernel"}


def test_combine_is_the_inverse_of_partition():
    selected, rest = targets.partition(PARAMS, ("fc",))
    assert targets.size(selected) == 18
    assert targets.size(rest) == 14
    combined = targets.combine(selected, rest)
    assert jax.tree.structure(combined) == jax.tree.structure(PARAMS)
    assert all(a is b for a, b in zip(*map(jax.tree.leaves, (combined, PARAMS)), strict=True))


@pytest.mark.parametrize(
    ("patterns", "said"),
    [
        (("conv3",), "matches no parameter; there are conv2/bias"),
        (("conv2", "nothing"), "'nothing'"),
        (("conv(",), "not a regular expression"),
        ((), "at least one pattern"),
    ],
)
def test_bad_patterns(patterns, said):
    with pytest.raises(InvalidArgumentError, match="targets") as caught:
        targets.partition(PARAMS, patterns)
    assert said in str(caught.value)


def used(function, params, inputs):
    return [(use.path, use.operation) for use in _xla.uses(function, params, inputs)]


def test_uses_come_in_the_order_of_the_calls_whatever_the_names():
    params = {"a": jnp.ones((3, 2)), "b": jnp.ones(5), "z": jnp.ones((4, 5)), "unused": jnp.ones(2)}

    def function(params, x):
        # All are cast first, and one is reshaped, in an order that is not that of the layers.
        cast = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), params)
        last = cast["a"].reshape(-1)[:5]
        return jax.nn.relu(x @ cast["z"] + cast["b"]) * last

    assert used(function, params, jnp.ones((2, 4))) == [
        ("z", "dot_general"),
        ("b", "add"),
        ("a", "mul"),
    ]


def with_a_gradient_of_its_own(function):
    made = jax.custom_jvp(function)
    made.defjvps(None, None)
    return jax.jit(made)


@pytest.mark.parametrize("wrap", [jax.jit, jax.checkpoint, with_a_gradient_of_its_own])
def test_uses_are_found_within_functions_that_are_called(wrap):
    def dense(w, x):
        return jnp.tanh(x @ w)

    def function(params, x):
        return wrap(dense)(params["first"], wrap(dense)(params["second"], x))

    params = {"first": jnp.ones((3, 3)), "second": jnp.ones((3, 3))}
    found = [("second", "dot_general"), ("first", "dot_general")]
    assert used(function, params, jnp.ones((1, 3))) == found


def test_uses_within_a_scan():
    def function(params, x):
        x = x + params["z"]
        return jax.lax.scan(lambda x, w: (x @ w, None), x, params["layers"])[0] * params["a"]

    params = {"a": jnp.ones(3), "layers": jnp.ones((4, 3, 3)), "z": jnp.ones(3)}
    found = [("z", "add"), ("layers", "dot_general"), ("a", "mul")]
    assert used(function, params, jnp.ones((1, 3))) == found


class Upside(linen.Module):
    @linen.compact
    def __call__(self, x, train: bool):
        x = linen.Conv(2, (3, 3), name="z")(x)
        x = linen.relu(linen.BatchNorm(use_running_average=not train, name="y")(x))
        return linen.Dense(3, name="a")(x.mean((1, 2)))


def test_uses_of_parameters_and_statistics_of_a_linen_model():
    variables = Upside().init(jax.random.key(0), jnp.zeros((1, 4, 4, 1)), train=False)
    model = Classifier.from_linen(Upside(), variables, input_shape=(4, 4, 1), num_classes=3)
    assert [path for path, _ in of_classifier(model)] == [
        "params/z/kernel",
        "params/z/bias",
        "state/batch_stats/y/mean",
        "state/batch_stats/y/var",
        "params/y/scale",
        "params/y/bias",
        "params/a/kernel",
        "params/a/bias",
    ]


def of_classifier(model):
    trees = {"params": model.params, "state": model.state}
    inputs = jax.ShapeDtypeStruct((1, *model.input_shape), jnp.float32)
    return used(lambda trees, x: model.replace(**trees).logits(x), trees, inputs)


@pytest.mark.parametrize("name", ["lenet", "resnet9", "vit_tiny"])
def test_all_of_our_models_parameters_are_used_first_to_last(name):
    model = models.create(name, input_shape=(32, 32, 3), num_classes=10, width=0.1)
    found = of_classifier(model)
    every = targets.paths({"params": model.params, "state": model.state})
    assert sorted(path for path, _ in found) == sorted(every)
    last = {"lenet": "fc/2", "resnet9": "classifier", "vit_tiny": "head"}[name]
    assert found[-2:] == [(f"params/{last}/kernel", "dot_general"), (f"params/{last}/bias", "add")]
    assert found[0][1] == "conv_general_dilated"


def test_a_pattern_is_a_string():
    with pytest.raises(InvalidArgumentError, match="targets=3: is not a pattern"):
        targets.as_patterns(("layer4", 3))
