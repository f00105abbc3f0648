"""The published methods, one file each, and the registry that names them."""

from collections.abc import Callable
from functools import partial

from ignpx.methods.ignp import PAPER, ignp
from ignpx.unlearner import Unlearner

# A factory of hyperparameters for each method; the contract tests hold every one of them.
METHODS: dict[str, Callable[..., Unlearner]] = {
    "ignp": ignp,
    "ignp-paper": partial(ignp, **PAPER),
}
