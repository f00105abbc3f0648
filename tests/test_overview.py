"""The summary of a classifier: layers, their parameters, and what methods do with them."""

import pathlib

import jax
import jax.numpy as jnp
import pytest
from flax import linen, nnx

import ignpx
from ignpx import Classifier, InvalidArgumentError


def rows(classifier):
    """What the summary says of each layer, by its name."""
    return {one.name: one for one in ignpx.summary(classifier).layers}


class Block(linen.Module):
    @linen.compact
    def __call__(self, x, train):
        x = linen.Conv(4, (3,), feature_group_count=2, name="grouped")(x)
        return linen.BatchNorm(use_running_average=not train, use_scale=False, name="norm")(x)


class Net(linen.Module):
    """A layer that is used twice, one in a scan, norms in a rematerialised block, an unused one."""

    @linen.compact
    def __call__(self, x, train: bool = False):
        twice = linen.Conv(2, (3,), use_bias=False, name="twice")
        x = linen.remat(Block, static_argnums=(2,))(name="block")(twice(twice(x)), train)
        x = linen.BatchNorm(use_running_average=not train, use_scale=False, use_bias=False)(x)
        scan = linen.scan(
            lambda dense, x, _: (dense(x), None),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            length=3,
        )
        x, _ = scan(linen.Dense(4, name="steps"), x, None)
        self.param("lonely", linen.initializers.zeros, (5,))
        return linen.Dense(3, name="head")(x.mean(1))


@pytest.fixture(scope="module")
def net():
    variables = Net().init(jax.random.key(0), jnp.zeros((1, 6, 2)))
    return Classifier.from_linen(
        Net(), variables, input_shape=(6, 2), num_classes=3, targets=("head", "steps/kernel")
    )


def test_layers_of_a_linen_model(net):
    found = rows(net)
    # In the order of their calls; by hand: the number, of which targeted, of which by factors.
    assert {name: one[1:6] for name, one in found.items()} == {
        "twice": ("convolution", (6, 2), 12, 0, 0),
        "block/grouped": ("convolution", (6, 4), 16, 0, 0),
        "block/norm": ("batch norm", (6, 4), 4, 0, 0),
        "steps": ("dense", (6, 4), 60, 48, 0),
        "head": ("dense", (3,), 15, 15, 12),
        "": ("unused", None, 5, 0, 0),
        "BatchNorm_0": ("batch norm", None, 0, 0, 0),
    }
    assert found["twice"].direct == {"twice/kernel": "used 2 times"}
    assert found["steps"].direct["steps/kernel"] == "used by scan"
    assert {name for name, one in found.items() if one.matched} == {"block/norm", "BatchNorm_0"}


def test_totals_are_printed(net):
    found = ignpx.summary(net)
    assert (found.parameters, found.targeted, found.factored) == (112, 63, 12)
    lines = str(found).splitlines()
    assert lines[0] == "inputs 6x2, 3 classes"
    assert lines[-1].startswith("112 parameters, of which the targets select 63; 12 have")
    head = next(line for line in lines if line.startswith("head"))
    assert head.split() == ["head", "dense", "3", "15", "yes", "by", "factors"]
    steps = next(line for line in lines if line.startswith("steps"))
    assert steps.endswith("48      by sample (scan)")


def test_layers_of_an_nnx_model():
    class Shared(nnx.Module):
        def __init__(self, rngs):
            self.norm = nnx.BatchNorm(4, rngs=rngs)
            self.same = self.norm
            self.dense = nnx.Linear(4, 3, rngs=rngs)

        def __call__(self, x):
            return self.dense(self.same(jnp.tanh(self.norm(x))))

    classifier = Classifier.from_nnx(Shared(nnx.Rngs(0)), input_shape=(4,), num_classes=3)
    found = rows(classifier.computing_in("bfloat16"))
    assert [(one.name, one.operation, one.matched) for one in found.values()] == [
        ("norm", "batch norm", True),
        ("dense", "dense", False),
    ]


def test_the_guide_shows_what_is_printed():
    lenet = ignpx.models.create("lenet", input_shape=(32, 32, 1), num_classes=10)
    guide = pathlib.Path(__file__).parents[1] / "docs" / "guides" / "your_model.md"
    assert f"```text\n{ignpx.summary(lenet)}\n```" in guide.read_text()


def test_of_a_plain_function(mlp):
    found = rows(mlp.replace(targets=("out",)))
    assert [(one.name, one.output, one.targeted) for one in found.values()] == [
        ("hidden", (16,), 0),
        ("out", (4,), 68),
    ]
    single = Classifier.from_function(
        lambda p, x: x @ p, jnp.ones((4, 3)), input_shape=(4,), num_classes=3
    )
    assert rows(single)[""].factored == 12


def test_of_no_classifier():
    with pytest.raises(InvalidArgumentError, match=r"^classifier=3: must be an ignpx\.Classifier"):
        ignpx.summary(3)
