"""The arguments that set the mode of a module's call, by their usual names."""

import inspect
from typing import Any

from ignpx.errors import InvalidArgumentError

TRAINING = ("train", "training", "is_training")
EVALUATION = ("deterministic", "use_running_average")
RANDOM = "rngs"


def parameters(module: Any) -> list[inspect.Parameter]:
    """The parameters of the module's call after the first, which takes the inputs."""
    return list(inspect.signature(type(module).__call__).parameters.values())[2:]


def takes_rngs(module: Any) -> bool:
    """Whether the module's call has an argument for random streams."""
    return any(one.name == RANDOM for one in parameters(module))


def check(name: str, module: Any, *others: str) -> None:
    """Checks that the call of a module requires only the inputs, the mode and `others`.

    Raises:
      InvalidArgumentError: if it requires another argument.
    """
    known = (*TRAINING, *EVALUATION, *others)
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    for one in parameters(module):
        required = one.default is inspect.Parameter.empty and one.kind not in variadic
        if required and one.name not in known:
            raise InvalidArgumentError(
                name,
                type(module),
                f"its call requires the argument `{one.name}`; it is given a batch of inputs and, "
                f"where it asks for them, {', '.join(known)}: give `{one.name}` a default value",
            )


def arguments(
    module: Any, *, train: bool, positional: bool = False, rngs: Any = None
) -> tuple[list[Any], dict[str, Any]]:
    """The arguments, after the inputs, that put a module's call into a mode.

    Args:
      module: a module whose call may have a mode argument of any of the usual names.
      train: the mode.
      positional: passes them by position where possible, with the defaults of the arguments between
        them. `static_argnums` of a transformation needs that; `static_argnames` needs them by name.
      rngs: value of the argument `rngs`; None leaves it out.

    Returns:
      Positional and named arguments.
    """
    known = dict.fromkeys(TRAINING, train) | dict.fromkeys(EVALUATION, not train)
    if rngs is not None:
        known[RANDOM] = rngs
    every = parameters(module)
    named = {one.name: known[one.name] for one in every if one.name in known}
    if not positional:
        return [], named
    placed = [one for one in every if one.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    while placed and placed[-1].name not in named:
        placed.pop()
    return [named.pop(one.name, one.default) for one in placed], named
