"""The time that each stage of a method takes, with compilation apart.

`stage` names a part of a method, in profiles and in the record; `recording` collects the seconds.
What JAX reports of tracing and compiling within a stage counts as `compile`, not as the stage.
"""

import contextlib
import contextvars
import functools
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import jax
import jax.monitoring

T = TypeVar("T")

_COMPILATION = "/jax/core/compile/"
_clock: contextvars.ContextVar[dict[str, float] | None] = contextvars.ContextVar(
    "ignpx_stage_clock", default=None
)


@contextlib.contextmanager
def recording() -> Iterator[dict[str, float]]:
    """Collects wall-clock seconds by stage.

    Example:
      >>> with stages.recording() as seconds:
      ...     unlearner.unlearn(classifier, request, key)
      >>> seconds
      {'compile': 1.9, 'synthesis': 3.1, ...}
    """
    _listen()
    seconds: dict[str, float] = {"compile": 0.0}
    token = _clock.set(seconds)
    try:
        yield seconds
    finally:
        _clock.reset(token)


def stage(name: str, function: Callable[..., T]) -> Callable[..., T]:
    """Wraps a function of pytrees so that its run time is recorded under `name`."""

    def run(*args: Any, **kwargs: Any) -> T:
        seconds = _clock.get()
        with jax.named_scope(name):
            if seconds is None:
                return function(*args, **kwargs)
            begin, compiled = time.perf_counter(), seconds["compile"]
            result = jax.block_until_ready(function(*args, **kwargs))
        spent = time.perf_counter() - begin - (seconds["compile"] - compiled)
        seconds[name] = seconds.get(name, 0.0) + spent
        return result

    return run


@functools.cache  # once a process, and not before someone records
def _listen() -> None:
    jax.monitoring.register_event_duration_secs_listener(_on_duration)


def _on_duration(event: str, duration_secs: float, **_: Any) -> None:
    seconds = _clock.get()
    if seconds is not None and event.startswith(_COMPILATION):
        seconds["compile"] += duration_secs
