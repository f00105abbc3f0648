"""Training a classifier by a recipe: for so many epochs, or with validation and resumption."""

from ignpx.training.epochs import check_needs_no_validation as check_needs_no_validation
from ignpx.training.epochs import fit as fit
from ignpx.training.ledger import Ledger as Ledger
from ignpx.training.ledger import fit_with_ledger as fit_with_ledger
from ignpx.training.recipe import Recipe as Recipe
from ignpx.training.validated import Progress as Progress
from ignpx.training.validated import Store as Store
from ignpx.training.validated import train as train
from ignpx.training.validated import validated_training as validated_training
