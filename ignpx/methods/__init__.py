"""The published methods, one file each, and the registry that names them."""

from collections.abc import Callable
from functools import partial

from ignpx.methods.finetune import finetune
from ignpx.methods.gkt import gkt
from ignpx.methods.ignp import PAPER, ZEROING, ignp
from ignpx.methods.retrain import retrain
from ignpx.methods.ssd import ssd
from ignpx.methods.unsir import unsir
from ignpx.unlearner import Unlearner

# A factory of hyperparameters for each method; the contract tests hold every one of them.
METHODS: dict[str, Callable[..., Unlearner]] = {
    "ignp": ignp,
    "ignp-paper": partial(ignp, **PAPER),
    "ignp-zero": partial(ignp, **ZEROING),
    "retrain": retrain,
    "finetune": finetune,
    "ssd": ssd,
    "gkt": gkt,
    "unsir": unsir,
}
