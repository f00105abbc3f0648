"""Equal settings have equal descriptions, in every process; others have others."""

import functools
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ignpx import losses, synthesis
from ignpx._support.description import crc, described
from test_caching import DIFFERENT, EQUAL

# Of objects, only the kind is described, and of arrays the values.
SAME = ("arrays", "objects", "methods", "modules")


@pytest.mark.parametrize("name", EQUAL)
def test_equal_values(name):
    assert described(EQUAL[name]()) == described(EQUAL[name]())


@pytest.mark.parametrize("name", [name for name in DIFFERENT if name not in SAME])
def test_different_values(name):
    first, second = DIFFERENT[name]
    assert described(first) != described(second)


def test_code_and_arrays_count():
    assert described(lambda x: x + 1.0) != described(lambda x: x - 1.0)
    assert described(functools.partial(max, np.ones(3))) != described(
        functools.partial(max, np.zeros(3))
    )
    assert described(jnp.ones(3)) == described(jnp.ones(3)) != described(jnp.ones((3, 1)))


def test_another_process_describes_alike():
    """Whatever its strings hash to."""
    code = (
        "import optax; from ignpx import losses, synthesis; "
        "from ignpx._support.description import crc; "
        "print(crc((synthesis.total_variation(2.0), optax.adam(0.1), losses.negative_log_odds)))"
    )
    here = crc((synthesis.total_variation(2.0), optax.adam(0.1), losses.negative_log_odds))
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(there.stdout) == here
