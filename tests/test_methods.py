"""The registry in words."""

import inspect

import pytest

from ignpx import Changes, Forgets, InvalidArgumentError, Sees
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
    plain, variant = describe("ignp"), describe("ignp-zero")
    assert (plain.defaults["edit"], variant.defaults["edit"]) == ("dampen", "zero")
    assert (plain.sees, plain.forgets, plain.changes) == ("nothing", "classes", ("targets",))
    ssd = describe("ssd")
    assert ssd.paper.endswith("Foster, Schoepf and Brintrup, AAAI 2024.")
    assert (ssd.sees, ssd.forgets, ssd.changes) == ("both", "any", ("targets", "other layers"))
    assert ssd.defaults["alpha"] == 10.0


def test_an_unknown_method():
    with pytest.raises(InvalidArgumentError, match="did you mean ssd"):
        describe("sssd")


@pytest.mark.parametrize(
    ("method", "settings", "said"),
    [
        ("sssd", {}, "method='sssd': did you mean ssd"),
        ("ssd", {"alhpa": 1}, "settings='alhpa': ssd has no such setting; did you mean alpha"),
        ("ssd", {"alpha": "ten"}, "settings={'alpha': 'ten'}: has a value of the wrong type"),
    ],
)
def test_what_cannot_be_built(method, settings, said):
    with pytest.raises(InvalidArgumentError) as caught:
        build(method, settings)
    assert str(caught.value).startswith(said)
