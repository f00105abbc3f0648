"""`docs/config.md` is what the classes say, and they say something of every field."""

import pytest

import config_reference
from ignpx.training import Recipe

SECTIONS = [section for sections in config_reference.SECTIONS.values() for section in sections]


def test_the_page_is_up_to_date():
    """`python scripts/config_reference.py` writes it anew."""
    assert config_reference.PLACE.read_text() == config_reference.page()


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.__name__)
def test_every_field_is_described(section):
    found = list(config_reference.fields(section))
    assert found
    assert [one.name for one in found if not one.description] == []


def test_types_and_defaults():
    epochs, batch_size, *_ = config_reference.fields(Recipe)
    assert (epochs.default, batch_size.default) == ("required", "`128`")
    row = "| `early_stopping` | integer above 0 or `null` | `null` | Epochs without"
    assert row in config_reference.page()
