"""The methods, one file each, and the registry that names them.

Another package adds a method by an entry point, or a script by one call of `register`:

    [project.entry-points."ignpx.methods"]
    drop-logit = "their_package.unlearning:drop_logit"

Its factory is as ours are: every setting has a default and can be given by name, a list as a tuple,
and is checked against the annotation, if it has one. It returns an `ignpx.Unlearner`.
"""

import enum
import inspect
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple, TypeVar

from ignpx._support.registry import Registry
from ignpx._support.settings import check_factory, checked
from ignpx.errors import InvalidArgumentError, PluginWarning, near_names
from ignpx.methods.amnesiac import amnesiac, amnesiac_subtract
from ignpx.methods.bad_teacher import bad_teacher
from ignpx.methods.boundary import boundary_expand, boundary_shrink
from ignpx.methods.damp import damp, damp_zs
from ignpx.methods.delete import delete, delete_embeddings, delete_zs
from ignpx.methods.emmn import emmn
from ignpx.methods.erase import erase, erase_zs
from ignpx.methods.finetune import finetune
from ignpx.methods.fisher import fisher
from ignpx.methods.gkt import gkt
from ignpx.methods.ignp import PAPER, ignp, zeroing
from ignpx.methods.jit import jit
from ignpx.methods.last_layers import cf_k, eu_k
from ignpx.methods.neggrad import neggrad, neggrad_plus
from ignpx.methods.on_embeddings import on_embeddings
from ignpx.methods.opc import opc, opc_zs
from ignpx.methods.random_labels import random_labels
from ignpx.methods.retrain import retrain
from ignpx.methods.salun import salun
from ignpx.methods.scrub import REWIND, scrub
from ignpx.methods.ssd import assd, lfssd, ssd
from ignpx.methods.top_k import random_k, random_top_k, top_k
from ignpx.methods.ttm import SUPPRESSING, ttm
from ignpx.methods.uisps import uisps
from ignpx.methods.unsir import unsir
from ignpx.methods.zs_pag import zs_pag
from ignpx.request import Forgets, Sees
from ignpx.unlearner import Unlearner, built_by

__all__ = [
    "METHODS",
    "Description",
    "amnesiac",
    "amnesiac_subtract",
    "assd",
    "bad_teacher",
    "boundary_expand",
    "boundary_shrink",
    "build",
    "cf_k",
    "damp",
    "damp_zs",
    "defaults",
    "delete",
    "delete_embeddings",
    "delete_zs",
    "describe",
    "describe_all",
    "emmn",
    "erase",
    "erase_zs",
    "eu_k",
    "finetune",
    "fisher",
    "gkt",
    "hyperparameters",
    "ignp",
    "jit",
    "lfssd",
    "list_methods",
    "neggrad",
    "neggrad_plus",
    "on_embeddings",
    "opc",
    "opc_zs",
    "package",
    "random_k",
    "random_labels",
    "random_top_k",
    "register",
    "retrain",
    "salun",
    "scrub",
    "ssd",
    "top_k",
    "ttm",
    "uisps",
    "unsir",
    "zeroing",
    "zs_pag",
]

Flag = TypeVar("Flag", bound=enum.Flag)

# A factory of hyperparameters for each method of ours; the contract tests hold every one of them.
METHODS: dict[str, Callable[..., Unlearner]] = {
    "ignp": ignp,
    "ignp-paper": partial(ignp, **PAPER),
    "ignp-zero": zeroing,
    "retrain": retrain,
    "finetune": finetune,
    "ssd": ssd,
    "lfssd": lfssd,
    "assd": assd,
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
    "damp": damp,
    "damp-zs": damp_zs,
    "delete": delete,
    "delete-zs": delete_zs,
    "delete-embeddings": delete_embeddings,
    "erase": erase,
    "erase-zs": erase_zs,
    "opc": opc,
    "opc-zs": opc_zs,
}


def __dir__() -> list[str]:
    return __all__


_REGISTRY = Registry("method", "ignpx.methods", METHODS, partial(check_factory, "method"))


def register(name: str, factory: Callable[..., Unlearner]) -> None:
    """Adds a method, for as long as the process runs, to what `build` and `list_methods` know.

    Args:
      name: as it is called on the command line and in configs.
      factory: returns an `Unlearner`; all its arguments have defaults and can be given by name.

    Raises:
      InvalidArgumentError: if the name is taken or is no name, or the factory cannot be used.
    """
    _REGISTRY.register(name, factory)


def list_methods(
    pattern: str = "*",
    *,
    sees: Sees | Literal["nothing", "forget", "retain", "both"] | None = None,
    forgets: Forgets | Literal["classes", "samples", "any"] | None = None,
) -> list[str]:
    """The names of the methods, those of other packages among them.

    Args:
      pattern: of names, as of files: `random*`.
      sees: only methods that are given just these real data.
      forgets: only methods that can be asked to forget this, whatever else they can be asked.

    Raises:
      InvalidArgumentError: if `sees` or `forgets` is none of these.

    Example:
      >>> list_methods("*-zs", sees="forget")
      ['neggrad-plus-zs', 'random-labels-zs', 'salun-zs', 'bad-teacher-zs']
    """
    names = _REGISTRY.matching(pattern)
    if sees is None and forgets is None:
        return names
    seen, asked = _flag(Sees, "sees", sees), _flag(Forgets, "forgets", forgets)
    built = {name: one for name in names if (one := _tried(_built, name)) is not None}
    return [
        name
        for name, one in built.items()
        if (seen is None or one.sees == seen) and (asked is None or asked in one.forgets)
    ]


def _flag(kind: type[Flag], name: str, value: Flag | str | None) -> Flag | None:
    if value is None or isinstance(value, kind):
        return value
    known = {str(word).lower(): one for word, one in kind.__members__.items()}
    if value not in known:
        raise InvalidArgumentError(name, value, near_names(str(value), known))
    return known[str(value)]


def _tried(use: Callable[[str], Any], name: str) -> Any:
    """What comes of a method, or None with a warning if it is a broken one of another package."""
    try:
        return use(name)
    except Exception as error:
        if name in METHODS:
            raise
        said = error if isinstance(error, InvalidArgumentError) else f"{name}: {error!r}"
        warnings.warn(f"left out: {said}", PluginWarning, stacklevel=3)
        return None


def _built(name: str, settings: dict[str, Any] | None = None) -> Unlearner:
    unlearner = _REGISTRY.find(name)(**(settings or {}))
    if not isinstance(unlearner, Unlearner):
        raise InvalidArgumentError(
            "method",
            name,
            f"its factory returns a {type(unlearner).__name__}; it must return an ignpx.Unlearner",
        )
    return unlearner


@built_by
def build(method: str, settings: dict[str, Any], recipe: dict[str, Any] | None = None) -> Unlearner:
    """Builds a method from its name and hyperparameters.

    A method that takes a `recipe` gets the one that the classifier was trained by, with what
    settings such as `recipe.epochs` change of it.

    Raises:
      InvalidArgumentError: if the method or a hyperparameter is unknown, or a value is of another
        type than the factory's annotation or out of its range, or the package that brings the
        method cannot be imported.
    """
    factory = _REGISTRY.find(method)
    return _built(method, checked(factory, method, _with_recipe(factory, settings, recipe)))


def _with_recipe(
    factory: Callable[..., Unlearner], settings: dict[str, Any], recipe: dict[str, Any] | None
) -> dict[str, Any]:
    """The settings with one `recipe`, if the factory takes one and any is known."""
    if "recipe" not in inspect.signature(factory).parameters:
        return settings
    changed = {n: v for n, v in settings.items() if n.startswith("recipe.")}
    settings = {n: v for n, v in settings.items() if n not in changed}
    if recipe or changed:
        fields = {n.removeprefix("recipe."): v for n, v in changed.items()}
        settings.setdefault("recipe", {**(recipe or {"epochs": 200}), **fields})
    return settings


def hyperparameters(
    method: str, settings: dict[str, Any], recipe: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Every hyperparameter of the method that `build` makes of the same arguments.

    Raises:
      InvalidArgumentError: if there is no method of this name.
    """
    return {**defaults(method), **_with_recipe(_REGISTRY.find(method), settings, recipe)}


def package(method: str) -> dict[str, str]:
    """The package that brings a method, and its version; empty for our own and a script's."""
    return _REGISTRY.brought_by(method)


def defaults(method: str) -> dict[str, Any]:
    """The hyperparameters of a method where none are given.

    Raises:
      InvalidArgumentError: if there is no method of this name.
    """
    known = inspect.signature(_REGISTRY.find(method)).parameters
    return {name: parameter.default for name, parameter in known.items()}


class Description(NamedTuple):
    """A method in words.

    Attributes:
      name: as `build` takes it.
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
      InvalidArgumentError: if there is no method of this name.
    """
    factory, built = _REGISTRY.find(name), _built(name)
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


def describe_all() -> list[Description]:
    """Describes every method: `ignpx methods` as a call.

    Warns:
      PluginWarning: if a method of another package cannot be described; it is left out.
    """
    described = (_tried(describe, name) for name in list_methods())
    return [one for one in described if one is not None]


def _in_words(flag: Any) -> str:
    return str(flag.name).lower().replace("_", " ")
