"""A model of the user's own, named `package.module:function`.

Finding such a name runs the module, as `python -m` would, and modules in the current folder can be
imported for it. The name is therefore taken from the person who runs the command, by a config or an
option, and never from a checkpoint, which may come from somebody else.
"""

import importlib
import os
import re
import sys
from typing import Any

from ignpx.errors import InvalidArgumentError, near_names


def names_code(name: object) -> bool:
    """Whether a name is one of the user's own code, and none of a registry."""
    return isinstance(name, str) and ":" in name


def imported(name: str) -> Any:
    """What a module of the user's has under the name of a function.

    Raises:
      InvalidArgumentError: if there is no such module or nothing of this name in it, or the module
        cannot be imported.
    """
    if not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", name):
        raise InvalidArgumentError("model", name, "must have the form package.module:function")
    place, _, function = name.partition(":")
    module = _module(name, place)
    if not hasattr(module, function):
        public = [one for one in dir(module) if callable(getattr(module, one)) and one[0] != "_"]
        raise InvalidArgumentError(
            "model", name, f"{place} has no function {function}; {near_names(function, public)}"
        )
    return getattr(module, function)


def _module(name: str, place: str) -> Any:
    here = os.getcwd()
    if not {"", here} & set(sys.path):
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        return importlib.import_module(place)
    except (Exception, SystemExit) as error:  # whatever a user's module may raise
        said = f"cannot be imported ({type(error).__name__}: {error}); mend it"
        if isinstance(error, ModuleNotFoundError) and f"{place}.".startswith(f"{error.name}."):
            said = f"there is no module {error.name}, neither installed nor in {here}"
        raise InvalidArgumentError("model", name, said) from error
