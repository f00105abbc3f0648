"""How much the compiler optimises; see conftest.py."""

import contextlib
from collections.abc import Iterator

import jax

OPTION = "jax_disable_most_optimizations"


@contextlib.contextmanager
def optimised(wanted: bool = True) -> Iterator[None]:
    """Within it programs are compiled to run fast, or to be compiled fast."""
    before = jax.config.read(OPTION)
    jax.config.update(OPTION, not wanted)
    yield
    jax.config.update(OPTION, before)
