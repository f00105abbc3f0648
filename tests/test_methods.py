"""The registry in words."""

import inspect

import jax.numpy as jnp
import numpy as np
import pytest

from ignpx import Changes, Forgets, InvalidArgumentError, Sees
from ignpx._support import checks, settings
from ignpx.methods import METHODS, build, describe


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_described(name):
    described = describe(name)
    assert described.name == name
    assert described.paper
    assert "\n" not in described.paper
    built = METHODS[name]()
    assert Sees[described.sees.upper()] == built.sees
    assert Forgets[described.forgets.upper()] == built.forgets
    changes = [Changes[part.replace(" ", "_").upper()] for part in described.changes]
    assert changes == list(built.changes)
    assert described.defaults == {
        name: parameter.default
        for name, parameter in inspect.signature(METHODS[name]).parameters.items()
    }
    # They build the method as it is.
    assert METHODS[name](**described.defaults).sees == built.sees


def test_what_a_variant_fixes_is_among_its_defaults():
    plain, variant = describe("ignp"), describe("ignp-paper")
    assert (plain.defaults["within"], variant.defaults["within"]) == ("held_out", "middle")
    counts = [{d.defaults[name] for name in ("samples", "held_out")} for d in (plain, variant)]
    assert counts == [{30, 10}, {20}]
    assert (plain.sees, plain.forgets, plain.changes) == ("nothing", "classes", ("targets",))
    ssd = describe("ssd")
    assert ssd.paper.endswith("Foster, Schoepf and Brintrup, AAAI 2024.")
    assert (ssd.sees, ssd.forgets, ssd.changes) == ("both", "any", ("targets", "other layers"))
    assert ssd.defaults["alpha"] == 10.0


def test_an_unknown_method():
    with pytest.raises(InvalidArgumentError, match="did you mean ssd"):
        describe("sssd")


@pytest.mark.parametrize(
    ("method", "chosen", "said"),
    [
        ("sssd", {}, "method='sssd': did you mean ssd"),
        ("ssd", {"alhpa": 1}, "settings='alhpa': ssd has no such setting; did you mean alpha"),
        ("ssd", {"alpha": "ten"}, "alpha='ten': must be a finite number"),
        ("ssd", {"alpha": float("inf")}, "alpha=inf: must be a finite number"),
        ("ssd", {"alpha": float("nan")}, "alpha=nan: must be a finite number"),
        ("ssd", {"alpha": 10**400}, "alpha=1000"),
        ("ssd", {"alpha": None}, "alpha=None: must be a finite number"),
        ("ssd", {"batch_size": 2.5}, "batch_size=2.5: must be a whole number"),
        ("ssd", {"batch_size": True}, "batch_size=True: must be a whole number"),
        ("ssd", {"shuffle": 1}, "shuffle=1: must be true or false"),
        ("ssd", {"shuffle": "no"}, "shuffle='no': must be true or false"),
        ("ignp", {"samples": "3"}, "samples='3': must be a whole number"),
        ("ignp", {"strength": True}, "strength=True: must be a finite number"),
        ("ignp", {"steps": 10**9}, "steps=1000000000: must be a whole number of at least 1 and at"),
        ("ignp", {"targets": 3}, "targets=3: must be a list of any length (a text) or null"),
        ("ignp", {"targets": "conv2"}, "targets='conv2': must be a list of any length (a text)"),
        ("ignp", {"coverage": [0.1]}, "coverage=(0.1,): must be a list of 2 (a finite number, a"),
        ("ignp", {"coverage": [0.1, "x"]}, "coverage=(0.1, 'x'): must be a list of 2"),
        ("ignp", {"coverage": {}}, "coverage={}: must be a list of 2"),
        ("ignp", {"within": ["middle"]}, "within=('middle',): must be held_out or middle"),
        ("ignp", {"microbatch": 0}, "microbatch=0: must be a whole number of at least 1"),
        ("retrain", {"recipe": 3}, "recipe=3: must be Recipe or a mapping or null"),
        ("retrain", {"recipe.epochs": "3"}, "epochs='3': must be a whole number above 0"),
    ],
)
def test_what_cannot_be_built(method, chosen, said):
    with pytest.raises(InvalidArgumentError) as caught:
        build(method, chosen)
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize("value", ["10", None, [1.0, 2.0], float("nan"), -1.0])
@pytest.mark.parametrize("check", [checks.positive, checks.not_negative, checks.share])
def test_what_is_no_number_is_named(check, value):
    """In Python, where nothing has compared a setting with its annotation."""
    with pytest.raises(InvalidArgumentError, match="strength="):
        check(strength=value)
    check(strength=np.float32(0.5))
    check(strength=jnp.float32(0.5))


def test_settings_of_lists_and_of_numpys_scalars():
    chosen = {"targets": ["conv2"], "coverage": [0.01, 0.5], "steps": np.int64(5), "strength": 3}
    assert build("ignp", chosen).sees == Sees.NOTHING


@pytest.mark.parametrize("name", METHODS)
def test_defaults_are_of_the_types_that_are_annotated(name):
    for parameter in inspect.signature(METHODS[name], eval_str=True).parameters.values():
        settings.check(parameter.name, parameter.default, parameter.annotation)
