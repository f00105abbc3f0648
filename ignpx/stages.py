"""The time that each stage of a method takes, with compilation apart, and how far it has come.

`stage` names a part of a method, in profiles and in the record; `recording` collects the seconds
and `reporting` tells a callback. What JAX reports of tracing and compiling within a stage counts as
`compile`, not as the stage.
"""

import contextlib
import contextvars
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TypeVar

import jax
import jax.monitoring

__all__ = [
    "Callback",
    "recording",
    "report",
    "reported",
    "reporting",
    "stage",
]


def __dir__() -> list[str]:
    return __all__


T = TypeVar("T")

_COMPILATION = "/jax/core/compile/"


class Callback(Protocol):
    """What is told how far a method has come, see `reporting`."""

    def __call__(self, name: str, share: float, /) -> None:
        """Called when a stage begins, while it runs and when it ends.

        Args:
          name: of the stage.
          share: of the stage that is done, 0 to 1.
        """


_clock: contextvars.ContextVar[dict[str, float] | None] = contextvars.ContextVar(
    "ignpx_stage_clock", default=None
)
_callback: contextvars.ContextVar[Callback | None] = contextvars.ContextVar(
    "ignpx_stage_callback", default=None
)
_current: contextvars.ContextVar[str] = contextvars.ContextVar("ignpx_stage_name", default="")


@contextlib.contextmanager
def recording() -> Iterator[dict[str, float]]:
    """Collects wall-clock seconds by stage.

    Example:
      >>> with stages.recording() as seconds:
      ...     edited, info = ignpx.unlearn(method, classifier, request, key)
      >>> sorted(seconds)
      ['calibration', 'compile', 'dampening', 'diagnosis', 'sensitivity', 'synthesis']
    """
    _listen()
    seconds: dict[str, float] = {"compile": 0.0}
    token = _clock.set(seconds)
    try:
        yield seconds
    finally:
        _clock.reset(token)


@contextlib.contextmanager
def reporting(callback: Callback | None) -> Iterator[None]:
    """Tells a callback of each stage: 0 when it begins, 1 when it ends, shares between.

    Shares come from loops that are taken in pieces: a synthesis every twentieth of its steps, a
    training every epoch, a descent on a CPU every 250 steps. None tells nobody else than before.

    Example:
      >>> shares = {}
      >>> with stages.reporting(lambda name, share: shares.update({name: share})):
      ...     edited, info = ignpx.unlearn(method, classifier, request, key)
      >>> shares["synthesis"]
      1.0
    """
    token = _callback.set(callback or _callback.get())
    try:
        yield
    finally:
        _callback.reset(token)


def reported() -> bool:
    """Whether there is a callback to tell."""
    return _callback.get() is not None


def report(share: float) -> None:
    """Tells how much of the current stage is done, 0 to 1, if there is someone to tell."""
    callback, name = _callback.get(), _current.get()
    if callback is not None and name:
        callback(name, share)


def stage(name: str, function: Callable[..., T]) -> Callable[..., T]:
    """Wraps a function of pytrees so that its run time is recorded, and reported, under `name`."""

    def run(*args: Any, **kwargs: Any) -> T:
        seconds = _clock.get()
        with jax.named_scope(name), _named(name):
            if seconds is None and not reported():
                return function(*args, **kwargs)
            seconds = {"compile": 0.0} if seconds is None else seconds
            begin, compiled = time.perf_counter(), seconds["compile"]
            report(0.0)
            result = jax.block_until_ready(function(*args, **kwargs))
            report(1.0)
        spent = time.perf_counter() - begin - (seconds["compile"] - compiled)
        seconds[name] = seconds.get(name, 0.0) + spent
        return result

    return run


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    token = _current.set(name)
    try:
        yield
    finally:
        _current.reset(token)


@functools.cache  # once a process, and not before someone records
def _listen() -> None:
    jax.monitoring.register_event_duration_secs_listener(_on_duration)


def _on_duration(event: str, duration_secs: float, **_: Any) -> None:
    seconds = _clock.get()
    if seconds is not None and event.startswith(_COMPILATION):
        seconds["compile"] += duration_secs
