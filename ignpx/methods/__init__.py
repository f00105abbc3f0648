"""The published methods, one file each, and the registry that names them."""

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ignpx._support.settings import check
from ignpx.errors import InvalidArgumentError, near_names
from ignpx.methods.amnesiac import amnesiac, amnesiac_subtract
from ignpx.methods.bad_teacher import bad_teacher
from ignpx.methods.boundary import boundary_expand, boundary_shrink
from ignpx.methods.emmn import emmn
from ignpx.methods.finetune import finetune
from ignpx.methods.fisher import fisher
from ignpx.methods.gkt import gkt
from ignpx.methods.ignp import PAPER, ignp, zeroing
from ignpx.methods.jit import jit
from ignpx.methods.last_layers import cf_k, eu_k
from ignpx.methods.neggrad import neggrad, neggrad_plus
from ignpx.methods.random_labels import random_labels
from ignpx.methods.retrain import retrain
from ignpx.methods.salun import salun
from ignpx.methods.scrub import REWIND, scrub
from ignpx.methods.ssd import ssd
from ignpx.methods.top_k import random_k, random_top_k, top_k
from ignpx.methods.ttm import SUPPRESSING, ttm
from ignpx.methods.uisps import uisps
from ignpx.methods.unsir import unsir
from ignpx.methods.zs_pag import zs_pag
from ignpx.unlearner import Unlearner

# A factory of hyperparameters for each method; the contract tests hold every one of them.
METHODS: dict[str, Callable[..., Unlearner]] = {
    "ignp": ignp,
    "ignp-paper": partial(ignp, **PAPER),
    "ignp-zero": zeroing,
    "retrain": retrain,
    "finetune": finetune,
    "ssd": ssd,
    "gkt": gkt,
    "unsir": unsir,
    "neggrad": neggrad,
    "neggrad-plus": neggrad_plus,
    "neggrad-plus-zs": partial(neggrad_plus, zero_shot=True),
    "random-labels": random_labels,
    "random-labels-zs": partial(random_labels, zero_shot=True),
    "salun": salun,
    "salun-zs": partial(salun, zero_shot=True),
    "amnesiac": amnesiac,
    "amnesiac-subtract": amnesiac_subtract,
    "bad-teacher": bad_teacher,
    "bad-teacher-zs": partial(bad_teacher, zero_shot=True),
    "scrub": scrub,
    "scrub-plus-r": partial(scrub, **REWIND),
    "uisps": uisps,
    "ttm": ttm,
    "ttm-sps": partial(ttm, **SUPPRESSING),
    "top-k": top_k,
    "random-k": random_k,
    "random-top-k": random_top_k,
    "eu-k": eu_k,
    "cf-k": cf_k,
    "zs-pag": zs_pag,
    "boundary-shrink": boundary_shrink,
    "boundary-expand": boundary_expand,
    "fisher": fisher,
    "emmn": emmn,
    "jit": jit,
}


def build(method: str, settings: dict[str, Any], recipe: dict[str, Any] | None = None) -> Unlearner:
    """Builds a method from its registered name and hyperparameters.

    A method that takes a `recipe` gets the one that the classifier was trained by, with what
    settings such as `recipe.epochs` change of it.

    Raises:
      InvalidArgumentError: if the method or a hyperparameter is unknown, or a value is of another
        type than the factory's annotation or out of its range.
    """
    if method not in METHODS:
        raise InvalidArgumentError("method", method, near_names(method, METHODS))
    factory = METHODS[method]
    known = inspect.signature(factory, eval_str=True).parameters
    if "recipe" in known:
        changed = {n: v for n, v in settings.items() if n.startswith("recipe.")}
        settings = {n: v for n, v in settings.items() if n not in changed}
        if recipe or changed:
            fields = {n.removeprefix("recipe."): v for n, v in changed.items()}
            settings.setdefault("recipe", {**(recipe or {"epochs": 200}), **fields})
    if unknown := [name for name in settings if name not in known]:
        raise InvalidArgumentError(
            "settings", unknown[0], f"{method} has no such setting; {near_names(unknown[0], known)}"
        )
    settings = {name: _settled(value) for name, value in settings.items()}
    for name, value in settings.items():
        check(name, value, known[name].annotation)
    return factory(**settings)


def _settled(value: Any) -> Any:
    """A value of YAML or JSON as factories take it: a tuple for a list."""
    if isinstance(value, list):
        return tuple(_settled(one) for one in value)
    return value.item() if isinstance(value, np.generic) else value


def defaults(method: str) -> dict[str, Any]:
    """The hyperparameters of a registered method where none are given."""
    known = inspect.signature(METHODS[method]).parameters
    return {name: parameter.default for name, parameter in known.items()}


class Description(NamedTuple):
    """A registered method in words.

    Attributes:
      name: a key of `METHODS`.
      paper: the first paragraph of its module, which names the method and its paper.
      sees: the real data that it is given: `nothing`, `forget`, `retain` or `both`.
      forgets: what it can be asked to forget: `classes`, `samples` or `any`.
      changes: what it may change: some of `targets`, `other layers` and `state`.
      defaults: its hyperparameters.
    """

    name: str
    paper: str
    sees: str
    forgets: str
    changes: tuple[str, ...]
    defaults: dict[str, Any]


def describe(name: str) -> Description:
    """Describes a method as it is with its defaults.

    Raises:
      InvalidArgumentError: if no method of this name is registered.
    """
    if name not in METHODS:
        raise InvalidArgumentError("method", name, near_names(name, METHODS))
    factory = METHODS[name]
    built = factory()
    module = inspect.getmodule(factory.func if isinstance(factory, partial) else factory)
    paragraph = (inspect.getdoc(module) or "").split("\n\n")[0]
    return Description(
        name=name,
        paper=" ".join(paragraph.split()),
        sees=_in_words(built.sees),
        forgets=_in_words(built.forgets),
        changes=tuple(_in_words(part) for part in built.changes),
        defaults=defaults(name),
    )


def _in_words(flag: Any) -> str:
    return str(flag.name).lower().replace("_", " ")
