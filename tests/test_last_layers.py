"""EU-k and CF-k: which layers they train, and that nothing else moves."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import ignpx
from by_hand import CLASSES, bits
from closeness import assert_sums_close
from ignpx import Classifier, InvalidArgumentError, Request, Samples, Sees, models, targets
from ignpx.adapters import split_nnx
from ignpx.methods import cf_k, eu_k, finetune
from ignpx.methods.last_layers import last_layers

SHAPE = (6,)
KEY = jax.random.key(2)
SGD = {"optimizer": "sgd", "learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.1}


class NnxNet(nnx.Module):
    """Its attributes are not in the order of its calls."""

    def __init__(self, rngs):
        self.head = nnx.Linear(5, CLASSES, rngs=rngs)
        self.z_norm = nnx.BatchNorm(6, momentum=0.8, rngs=rngs)
        self.norm = nnx.BatchNorm(5, momentum=0.8, rngs=rngs)
        self.middle = nnx.Linear(6, 5, rngs=rngs)
        self.stem = nnx.Linear(6, 6, rngs=rngs)

    def __call__(self, x):
        x = self.z_norm(self.stem(x))
        return self.head(jnp.tanh(self.norm(self.middle(x))))


class LinenNet(linen.Module):
    by_argument: bool

    @linen.compact
    def __call__(self, x, train: bool):
        def norm(name, x):
            mode = {"use_running_average": not train}
            if self.by_argument:
                return linen.BatchNorm(momentum=0.8, name=name)(x, **mode)
            return linen.BatchNorm(momentum=0.8, name=name, **mode)(x)

        x = norm("z_norm", linen.Dense(6, name="stem")(x))
        x = norm("norm", linen.Dense(5, name="middle")(x))
        return linen.Dense(CLASSES, name="head")(jnp.tanh(x))


def build(kind):
    fields = {"input_shape": SHAPE, "num_classes": CLASSES}
    if kind == "nnx":
        model = Classifier.from_nnx(NnxNet(nnx.Rngs(0)), initialise=initialise_nnx, **fields)
    else:
        module = LinenNet(kind == "linen, by argument")
        variables = module.init(jax.random.key(0), jnp.zeros((1, *SHAPE)), train=False)
        model = Classifier.from_linen(module, variables, **fields)
    # Running statistics that are those of no batch, so that the mode of a layer shows.
    leaves, structure = jax.tree.flatten(model.state)
    return model.replace(
        state=jax.tree.unflatten(
            structure, [leaf + jnp.linspace(0.5, 1, leaf.size) for leaf in leaves]
        )
    )


def initialise_nnx(key):
    return split_nnx(NnxNet(nnx.Rngs(key)))[1:]


KINDS = ["nnx", "linen, by attribute", "linen, by argument"]


def request(count=12):
    rng = np.random.default_rng(0)
    data = (rng.normal(size=(count, *SHAPE)), rng.integers(0, CLASSES, count))
    return Request.samples(CLASSES, Samples(*data), Samples(np.float32(data[0]), data[1]))


def statistics(state):
    return state.get("batch_stats", state)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("settings", "trained", "norms"),
    [
        ({"k": 1}, {"head"}, set()),
        ({"k": 2}, {"head", "norm", "middle"}, {"norm"}),
        ({"k": 2, "unit": "tensor"}, {"head"}, set()),
        # Into the middle of a layer: the bias of `middle` moves, and its kernel does not.
        ({"k": 5, "unit": "tensor"}, {"head", "norm", "middle/bias"}, {"norm"}),
        ({"k": 3}, {"head", "norm", "middle", "z_norm", "stem"}, {"norm", "z_norm"}),
    ],
)
def test_what_is_frozen_stays_to_the_bit(kind, settings, trained, norms):
    before = build(kind)
    method = cf_k(**settings, **SGD, epochs=3, batch_size=4)
    after, _ = ignpx.unlearn(method, before, request(), KEY)
    moved = set()
    for path, old, new in zip(
        targets.paths(before.params),
        jax.tree.leaves(before.params),
        jax.tree.leaves(after.params),
        strict=True,
    ):
        if bits(old) != bits(new):
            moved.add(path)
    expected, _ = targets.partition(before.params, tuple(trained))
    assert moved == set(targets.paths(expected))
    for name in ("norm", "z_norm"):
        old, new = (bits(statistics(model.state)[name]) for model in (before, after))
        assert (old != new) == (name in norms)
    assert jax.tree.structure(after) == jax.tree.structure(before)


@pytest.mark.parametrize("kind", KINDS)
def test_one_step_equals_the_formulas(kind):
    """The frozen batch norm uses its running statistics, and the trained one those of the batch."""
    before = build(kind)
    after, info = ignpx.unlearn(cf_k(k=2, **SGD, epochs=1, batch_size=12), before, request(), KEY)
    params, state = before.params, statistics(before.state)
    x, labels = request().retain_data

    def norm(x, mean, variance, of):
        return (x - mean) / jnp.sqrt(variance + 1e-5) * of["scale"] + of["bias"]

    def loss(tail):
        h = x @ params["stem"]["kernel"] + params["stem"]["bias"]
        h = norm(h, state["z_norm"]["mean"], state["z_norm"]["var"], params["z_norm"])
        h = h @ tail["middle"]["kernel"] + tail["middle"]["bias"]
        seen = h.mean(0), h.var(0)
        h = jnp.tanh(norm(h, *seen, tail["norm"]))
        logits = h @ tail["head"]["kernel"] + tail["head"]["bias"]
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(12), labels]), seen

    tail = {name: params[name] for name in ("middle", "norm", "head")}
    (value, seen), slope = jax.value_and_grad(loss, has_aux=True)(tail)
    expected = jax.tree.map(lambda p, g: p - 0.1 * (g + 0.1 * p), tail, slope)
    assert float(info.losses[0]) == pytest.approx(float(value), rel=1e-5)
    for name in tail:
        for kind_of, leaf in expected[name].items():
            np.testing.assert_allclose(after.params[name][kind_of], leaf, rtol=1e-4, atol=1e-6)
    for which, batch in zip(("mean", "var"), seen, strict=True):
        running = 0.8 * state["norm"][which] + 0.2 * batch
        assert_sums_close(statistics(after.state)["norm"][which], running, 1e-5)


def test_training_all_layers_is_fine_tuning():
    settings = {**SGD, "epochs": 2, "batch_size": 4}
    every, _ = ignpx.unlearn(cf_k(k=3, **settings), build("nnx"), request(), KEY)
    plain, _ = ignpx.unlearn(finetune(final_share=1.0, **settings), build("nnx"), request(), KEY)
    for a, b in zip(jax.tree.leaves(every), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["nnx", "linen, by attribute"])
def test_eu_k_starts_the_last_layers_anew(kind):
    before = build(kind)
    recipe = {"epochs": 1, "batch_size": 12, "learning_rate": 1e-12, "weight_decay": 0.0}
    after, _ = ignpx.unlearn(eu_k(recipe, k=2, validation_share=0.3), before, request(), KEY)
    for name in ("stem", "z_norm"):
        assert bits(after.params[name]) == bits(before.params[name])
    assert bits(statistics(after.state)["z_norm"]) == bits(statistics(before.state)["z_norm"])
    fresh = before.fresh(jax.random.split(KEY, 3)[0]).params
    for name in ("middle", "norm", "head"):
        for part, leaf in fresh[name].items():
            np.testing.assert_allclose(after.params[name][part], leaf, atol=1e-6)
    # From 0 and 1 on, one step of a momentum of 0.8.
    seen = statistics(after.state)["norm"]
    assert np.all(np.asarray(seen["var"]) >= 0.8)
    assert bits(seen) != bits(statistics(before.state)["norm"])


def test_frozen_layers_of_a_model_in_a_lower_precision():
    before = build("nnx").computing_in("bfloat16")
    after, _ = ignpx.unlearn(cf_k(k=2, **SGD, epochs=2, batch_size=4), before, request(), KEY)
    assert after.apply == before.apply
    for name in ("stem", "z_norm"):
        assert bits(after.params[name]) == bits(before.params[name])
    assert bits(after.state["z_norm"]) == bits(before.state["z_norm"])
    assert bits(after.state["norm"]) != bits(before.state["norm"])


def test_the_precision_of_a_recipe_is_that_of_the_frozen_layers_too():
    seen = set()

    def function(params, x):
        seen.add(frozenset(str(leaf.dtype) for leaf in jax.tree.leaves(params)))
        return jnp.tanh(x @ params["first"]) @ params["last"]

    def initialise(key):
        keys = jax.random.split(key)
        shapes = {"first": (6, 5), "last": (5, CLASSES)}
        return {n: jax.random.normal(k, shapes[n]) for k, n in zip(keys, shapes, strict=True)}, {}

    before = Classifier.from_function(
        function,
        initialise(KEY)[0],
        initialise=initialise,
        input_shape=SHAPE,
        num_classes=CLASSES,
    )
    recipe = {"epochs": 1, "batch_size": 4, "precision": "bfloat16"}
    after, _ = ignpx.unlearn(eu_k(recipe, k=1, validation_share=0.3), before, request(), KEY)
    assert bits(after.params["first"]) == bits(before.params["first"])
    assert seen == {frozenset({"float32"}), frozenset({"bfloat16"})}


def test_sizes_are_those_of_the_top_k_paper():
    """Table 1: EU-5 and EU-10 of ResNet18."""
    fields = {"input_shape": (32, 32, 3), "num_classes": 10}
    # Shapes are all that it takes.
    model = jax.eval_shape(lambda: models.create("cifar_resnet18", **fields))

    def trained(k, unit):
        chosen = last_layers(model, k, unit).params
        leaves = zip(targets.paths(model.params), jax.tree.leaves(model.params), strict=True)
        return sum(leaf.size for path, leaf in leaves if path in chosen)

    assert trained(5, "tensor") == 2_365_450
    assert trained(10, "tensor") == 4_726_794
    assert trained(2, "layer") == 2_365_450


def test_defaults():
    of = {n: p.default for n, p in inspect.signature(cf_k).parameters.items()}
    assert (of["k"], of["unit"], of["learning_rate"], of["optimizer"]) == (2, "layer", 1e-4, "adam")
    for method in (cf_k(), eu_k()):
        assert method.sees == Sees.RETAIN


@pytest.mark.parametrize(
    ("settings", "said"), [({"k": 4}, "only 3 layers"), ({"k": 11, "unit": "tensor"}, "10 tensors")]
)
def test_more_layers_than_there_are(settings, said):
    with pytest.raises(InvalidArgumentError, match=f"^k=.*{said}"):
        ignpx.unlearn(cf_k(**settings), build("nnx"), request(), KEY)


def test_a_model_of_which_no_part_can_be_frozen():
    model = build("nnx")

    def apply(params, state, inputs, *, train):
        return model.apply(params, state, inputs, train=train)

    with pytest.raises(InvalidArgumentError, match="no method `holding`"):
        ignpx.unlearn(cf_k(k=1), model.replace(apply=apply), request(), KEY)


@pytest.mark.parametrize("method", [cf_k, eu_k])
@pytest.mark.parametrize("bad", [{"k": 0}, {"k": 1.5}, {"unit": "block"}])
def test_bad_arguments(method, bad):
    (name,) = bad
    with pytest.raises(InvalidArgumentError, match=f"{name}="):
        method(**bad)


def test_bad_recipes():
    with pytest.raises(InvalidArgumentError, match="epochs="):
        eu_k({"epochs": 0})
    with pytest.raises(InvalidArgumentError, match="validation_share="):
        eu_k(validation_share=1.0)
    with pytest.raises(InvalidArgumentError, match="learning_rate="):
        cf_k(learning_rate=0.0)
