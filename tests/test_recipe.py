"""Recipes check themselves, however they are made."""

import dataclasses

import pytest

from ignpx import InvalidArgumentError
from ignpx.experiments import config
from ignpx.training.recipe import Recipe

BAD = [
    ({"epochs": 0}, "epochs=0: must be a whole number above 0 and at most 100000"),
    ({"epochs": 2.0}, "epochs=2.0: must be a whole number"),
    ({"epochs": True}, "epochs=True: must be a whole number"),
    ({"learning_rate": float("nan")}, "learning_rate=nan: must be a finite number above 0"),
    ({"learning_rate": "ten"}, "learning_rate='ten': must be a finite number above 0"),
    ({"momentum": 1}, "momentum=1: must be a finite number at least 0 and below 1"),
    ({"early_stopping": 0}, "early_stopping=0: must be a whole number above 0 or null"),
    ({"schedule": "step"}, "schedule='step': must be plateau or cosine or constant"),
    ({"warmup_epochs": 3}, r"warmup_epochs=3: must be below epochs \(3\)"),
]


@pytest.mark.parametrize(("fields", "said"), BAD, ids=[str(fields) for fields, _ in BAD])
def test_bad_values(fields, said):
    fields = {"epochs": 3, **fields}
    for make in (lambda: Recipe(**fields), lambda: Recipe.of(fields)):
        with pytest.raises(InvalidArgumentError, match=f"^{said}"):
            make()
    with pytest.raises(InvalidArgumentError, match=f"^{next(reversed(fields))}="):
        config.parse(Recipe, fields)


def test_fields_that_are_unknown_or_missing():
    with pytest.raises(InvalidArgumentError, match="epoch=3: there is no such field; did you mean"):
        Recipe.of({"epoch": 3})
    with pytest.raises(InvalidArgumentError, match="epochs=None: is missing"):
        Recipe.of({})


def test_it_is_written_and_read():
    recipe = Recipe(epochs=3, early_stopping=2, learning_rate=1)
    assert Recipe.of(recipe) is recipe
    assert Recipe.of(dataclasses.asdict(recipe)) == recipe
    assert config.parse(Recipe, dataclasses.asdict(recipe)) == recipe
