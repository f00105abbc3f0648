"""Models of PyTorch, in and out: state dicts, files of them, and modules of any architecture.

The way there and back is three lines:

    from ignpx import interop

    classifier, origin = interop.load("model.pt", arch="cifar_resnet18", input_shape=(32, 32, 3))
    forgetful, info = ignpx.unlearn(ignpx.methods.ignp(), classifier, request, jax.random.key(0))
    interop.save("forgetful.pt", forgetful, origin)

PyTorch is needed where tensors or its files are (`pip install 'ignpx[torch]'`). It is imported when
a function here is first given any.
"""

from typing import TYPE_CHECKING

from ignpx._support.lazy import attach

if TYPE_CHECKING:
    from ignpx.interop.files import load, save
    from ignpx.interop.forgetting import forget
    from ignpx.interop.modules import ChannelsFirst, from_torch
    from ignpx.interop.state_dicts import (
        Origin,
        from_state_dict,
        list_architectures,
        to_state_dict,
    )

__all__ = [
    "ChannelsFirst",
    "Origin",
    "forget",
    "from_state_dict",
    "from_torch",
    "list_architectures",
    "load",
    "save",
    "to_state_dict",
]

_HOMES = {
    "ChannelsFirst": "modules",
    "forget": "forgetting",
    "from_torch": "modules",
    "load": "files",
    "save": "files",
}

__getattr__, __dir__ = attach(
    __name__, {name: f"ignpx.interop.{_HOMES.get(name, 'state_dicts')}" for name in __all__}
)
