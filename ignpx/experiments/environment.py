"""What a result depends on beside its inputs: versions, the device, and JAX's settings."""

import contextlib
import os
import pathlib
import platform
from importlib.metadata import version
from typing import Any

import jax

import ignpx
from ignpx.methods import package

# Settings of JAX that decide how a computation rounds and what random numbers it draws.
_DECIDING = (
    "jax_default_matmul_precision",
    "jax_default_prng_impl",
    "jax_enable_x64",
    "jax_threefry_partitionable",
)


def brief() -> dict[str, str]:
    """The versions and the device that a figure depends on, to be kept beside it."""
    first = jax.devices()[0]
    return {
        "ignpx": ignpx.__version__,
        "jax": jax.__version__,
        "device": f"{first.platform}: {first.device_kind}",
    }


def versions(method: str | None = None) -> dict[str, str]:
    """The versions of what computes: also of the package that brings a method, if it is another."""
    names = ["ignpx", "jax", "jaxlib", "flax", "optax", "numpy"]
    found = {name: version(name) for name in names} | {"python": platform.python_version()}
    return found if method is None else found | package(method)


def device() -> dict[str, Any]:
    """What decides about the bits of a result beside the versions.

    The processor is named where it computes: how it adds depends on its instructions and cores.
    """
    first = jax.devices()[0]
    here: dict[str, Any] = {"platform": first.platform, "kind": first.device_kind}
    if first.platform == "cpu":
        here |= {"processor": _processor(), "cores": _cores()}
    flags = " ".join(sorted(os.environ.get("XLA_FLAGS", "").split()))
    return here | {"xla_flags": flags, **{name: getattr(jax.config, name) for name in _DECIDING}}


def _cores() -> int | None:
    """The cores that the process may use, where the system says so."""
    allowed = getattr(os, "sched_getaffinity", None)
    return os.cpu_count() if allowed is None else len(allowed(0))


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine()
