"""What is no model, or no model that can be taken: one error names the argument."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest
from flax import linen, nnx

from ignpx import Classifier, InvalidArgumentError

FIELDS = {"input_shape": (4,), "num_classes": 3}
X = jnp.ones((6, 4))

LINEAR = nnx.Linear(4, 3, rngs=nnx.Rngs(0))


def from_nnx(model=LINEAR, **fields):
    return Classifier.from_nnx(model, **{**FIELDS, **fields})


def from_linen(module=None, variables=None, **fields):
    module = linen.Dense(3) if module is None else module
    variables = linen.Dense(3).init(jax.random.key(0), X) if variables is None else variables
    return Classifier.from_linen(module, variables, **{**FIELDS, **fields})


def from_function(function=lambda p, x: x @ p, params=None, **fields):
    params = jnp.ones((4, 3)) if params is None else params
    return Classifier.from_function(function, params, **{**FIELDS, **fields})


@dataclasses.dataclass
class NotHashable:
    values: list

    def __call__(self, images):
        return images


WRONG = {
    "nnx class": (lambda: from_nnx(nnx.Linear), "model=.*is a class"),
    "linen class": (lambda: from_linen(linen.Dense), "module=.*is a class"),
    "linen as nnx": (lambda: from_nnx(linen.Dense(3)), "model=.*`Classifier.from_linen`"),
    "nnx as linen": (lambda: from_linen(LINEAR), "module=.*`Classifier.from_nnx`"),
    "nnx as function": (lambda: from_function(LINEAR), "function=.*`Classifier.from_nnx`"),
    "no model": (lambda: from_nnx("lenet"), "model=.*give a Flax NNX module"),
    "no function": (lambda: from_function(3), "function=.*must be a function"),
    "no call": (lambda: from_nnx(nnx.Dict(a=nnx.Param(1.0))), "model=.*no `__call__`"),
    "params alone": (
        lambda: from_linen(variables={"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)}),
        r"variables=\['bias', 'kernel'\].*collection `params`",
    ),
    "no variables": (lambda: from_linen(variables=[1]), "variables=.*`module.init`"),
    "variables of another": (
        lambda: from_linen(variables={"params": {"other": jnp.ones((4, 3))}}),
        "module=.*ScopeParamNotFoundError",
    ),
    "targets": (lambda: from_nnx(targets="kernel"), r"targets='kernel'.*\('kernel',\)"),
    "targets of numbers": (lambda: from_nnx(targets=(3,)), "targets=3.*strings"),
    "a number as targets": (lambda: from_nnx(targets=3), "targets=3.*must be a tuple"),
    "targets of nothing": (lambda: from_nnx(targets=("conv",)), "targets='conv'.*matches no"),
    "preprocess": (lambda: from_nnx(preprocess=255), "preprocess=255.*function of images"),
    "preprocess class": (lambda: from_nnx(preprocess=NotHashable), "preprocess=.*function of"),
    "preprocess hash": (
        lambda: from_nnx(preprocess=NotHashable([1])),
        "preprocess=.*cannot be hashed",
    ),
    "initialise": (lambda: from_nnx(initialise=3), "initialise=3.*a PRNG key"),
    "build": (lambda: from_nnx(build=3), "build=3: must be a function of nnx.Rngs"),
    "a model to build": (
        lambda: from_nnx(build=nnx.Linear(4, 3, rngs=nnx.Rngs(0))),
        "build='flax.nnx.*Linear.*must be a function of nnx.Rngs",
    ),
    "build nothing": (
        lambda: from_nnx(build=lambda rngs: None).fresh(jax.random.key(0)),
        "build=.*NoneType.*: is what it returns; it must return a Flax NNX module",
    ),
    "build and initialise": (
        lambda: from_nnx(build=nnx.Linear, initialise=lambda key: key),
        "build=.*and initialise are one thing; give one",
    ),
    "traced": (
        lambda: from_function(lambda p, x: x @ p if x.sum() > 0 else x),
        "function=.*jax.jit",
    ),
    "a slip": (lambda: from_function(lambda p, x: p["w"] @ x.shapes), "function=.*raised"),
    "None": (lambda: from_function(lambda p, x: None + x), "function=.*TypeError: unsupported"),
    "tokens": (
        lambda: from_function(lambda p, x: p[x].mean(1)),
        "function=.*integer.*give the model one-hot vectors or embeddings",
    ),
    "tokens of a module": (
        lambda: from_nnx(nnx.Embed(10, 3, rngs=nnx.Rngs(0))),
        "model=.*integer.*give the model one-hot vectors or embeddings",
    ),
    "arguments": (
        lambda: from_function(lambda p, x, key: x @ p),
        "function=.*missing 1 required positional",
    ),
    "own word": (
        lambda: from_function(lambda p, x: x.reshape(7, 3)),
        r"input_shape=\(4,\).*reshape",
    ),
}
for shape in (784, [], (), (4.0,), (-1,), (0, 4), "4", (True, 4), None, 4.5):
    WRONG[f"shape {shape!r}"] = (
        functools.partial(from_nnx, input_shape=shape),
        "input_shape=.*whole numbers of at least 1",
    )
for count in (3.0, "3", 0, -1, True, None):
    WRONG[f"classes {count!r}"] = (
        functools.partial(from_nnx, num_classes=count),
        "num_classes=.*whole number of at least 2",
    )


@pytest.mark.parametrize("wrong", WRONG)
def test_one_error_names_the_argument(wrong):
    make, said = WRONG[wrong]
    with pytest.raises(InvalidArgumentError, match=f"^{said}") as caught:
        make()
    assert len(str(caught.value).splitlines()) == 1


def test_a_list_is_a_shape_too():
    assert from_nnx(input_shape=[4], targets=["kernel"]).input_shape == (4,)
    assert from_nnx(targets=["kernel"]).targets == ("kernel",)


def test_models_of_pytorch():
    torch = pytest.importorskip("torch")
    module = torch.nn.Linear(4, 3)
    for name, make in [
        ("model", lambda: from_nnx(module)),
        ("module", lambda: from_linen(module)),
        ("function", lambda: from_function(module)),
        ("variables", lambda: from_linen(variables=module.state_dict())),
        ("params/kernel", lambda: from_linen(variables={"params": {"kernel": module.weight}})),
        ("params/bias", lambda: from_function(params=dict(module.state_dict()))),
    ]:
        with pytest.raises(InvalidArgumentError, match=rf"^{name}=.*ignpx.interop.from_torch"):
            make()
