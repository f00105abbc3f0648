"""Compiled functions keep memory mapped, and Linux grants a process 65,530 mappings."""

import gc
import pathlib

import jax

MAPS = pathlib.Path("/proc/self/maps")
MOST = 35_000


def make_room() -> None:
    """Forgets what has been compiled once mappings run out; always where they cannot be counted."""
    if not MAPS.exists() or MAPS.read_bytes().count(b"\n") > MOST:
        forget()


def forget() -> None:
    """Forgets what has been compiled and traced."""
    jax.clear_caches()
    gc.collect()
