"""Training a classifier by a recipe: for so many epochs, or with validation and resumption."""

from ignpx.training.epochs import check_needs_no_validation, fit
from ignpx.training.ledger import Ledger, fit_with_ledger
from ignpx.training.recipe import Recipe
from ignpx.training.validated import Progress, Store, train, validated_training

__all__ = [
    "Ledger",
    "Progress",
    "Recipe",
    "Store",
    "check_needs_no_validation",
    "fit",
    "fit_with_ledger",
    "train",
    "validated_training",
]


def __dir__() -> list[str]:
    return __all__
