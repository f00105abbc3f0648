"""One loop, however it is run, equals a plain one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ignpx._support import batching
from ignpx._xla import loops

# See conftest.py.
PATCHES = True


def step(operands, carry, index):
    carry = jnp.sin(carry * operands) + index
    return carry, {"value": carry, "index": index}


def looped(way, run, start, monkeypatch):
    """What a function of a start gives, called as it is or in another way."""
    if way == "accelerator":
        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    if way == "jit":
        return jax.jit(run)(start)
    if way == "vmap":
        return jax.tree.map(lambda leaf: leaf[0], jax.vmap(run)(start[None]))
    return run(start)


@pytest.mark.parametrize("way", ["iterate", "max_length", "repeat", "jit", "vmap", "accelerator"])
def test_every_way_to_loop_gives_what_a_plain_loop_gives(way, monkeypatch):
    expected = []
    carry = np.float32(0.3)
    for index in range(5):
        carry = np.sin(carry * np.float32(1.7)) + np.float32(index)
        expected.append(carry)

    def run(start):
        loop = loops.repeat if way in ("repeat", "accelerator") else loops.iterate
        options = {"max_length": 8} if way == "max_length" else {}
        return loop(step, jnp.float32(1.7), start, 5, **options)

    last, outputs = looped(way, run, jnp.float32(0.3), monkeypatch)
    np.testing.assert_allclose(last, expected[-1], rtol=1e-5)
    np.testing.assert_allclose(outputs["value"], expected, rtol=1e-5)
    np.testing.assert_array_equal(outputs["index"], np.arange(5))


@pytest.mark.parametrize("length", [1, 2, 7, 12, 40])
def test_a_loop_that_reports_gives_the_same_bits(length):
    shares = []
    arguments = (step, jnp.float32(1.7), jnp.float32(0.3), length)
    plain = loops.iterate(*arguments)
    reporting = loops.iterate(*arguments, report=shares.append)
    jax.tree.map(np.testing.assert_array_equal, plain, reporting)
    pieces = {1: 1, 2: 1, 7: 1, 12: 6, 40: 20}[length]
    assert shares == [(piece + 1) / pieces for piece in range(pieces)]
    jax.jit(lambda x: loops.iterate(step, x, x, length, report=shares.append))(1.0)
    assert len(shares) == pieces


def test_under_jit_the_loop_is_rolled_even_if_nothing_in_it_is_traced():
    def outer(x):
        return x + loops.iterate(step, jnp.float32(1.7), jnp.float32(0.3), 50)[0]

    assert "scan" in str(jax.make_jaxpr(outer)(1.0))


def test_any_length_up_to_the_maximum_is_compiled_once():
    traced = []

    def counted(operands, carry, index):
        traced.append(index)
        return step(operands, carry, index)

    def run(length):
        return loops.iterate(counted, jnp.float32(1.7), jnp.float32(0.3), length, max_length=6)

    wanted = loops.iterate(step, jnp.float32(1.7), jnp.float32(0.3), 6)[1]["value"]
    np.testing.assert_allclose(run(6)[1]["value"], wanted, rtol=1e-5)
    times = len(traced)
    for length in (1, 4):
        last, outputs = run(length)
        np.testing.assert_allclose(outputs["value"], wanted[:length], rtol=1e-5)
        assert last == outputs["value"][-1]
    assert len(traced) == times


def test_evenly_takes_as_few_steps_as_the_most_allow_and_fills_up_least():
    for count in range(1, 30):
        for most in range(1, 32):
            size = batching.evenly(count, most)
            steps = -(-count // size)
            assert size <= most
            assert steps == -(-count // most)
            assert steps * size - count < steps


def inner(operands, carry, index):
    carry = jnp.cos(carry * operands["scale"]) + 0.1 * index
    return carry, carry


def outer(operands, carry, index):
    """A loop of its own within each step, as in methods that alternate."""
    carry, seen = loops.iterate(inner, operands, carry + index, 3)
    return carry, {"mean": seen.mean(), "index": index}


@pytest.mark.parametrize("way", ["called", "jit", "vmap", "accelerator"])
def test_repeat_equals_a_plain_loop(way, monkeypatch):
    def run(start):
        return loops.repeat(outer, {"scale": jnp.float32(1.3)}, start, 4)

    last, outputs = looped(way, run, jnp.float32(0.2), monkeypatch)
    number = np.float32
    carry, means = number(0.2), []
    for index in range(4):
        carry, seen = carry + number(index), []
        for step in range(3):
            carry = np.cos(carry * number(1.3)) + number(0.1) * number(step)
            seen.append(carry)
        means.append(np.mean(seen))
    np.testing.assert_allclose(last, carry, rtol=1e-5)
    np.testing.assert_allclose(outputs["mean"], means, rtol=1e-5)
    np.testing.assert_array_equal(outputs["index"], np.arange(4))


def test_repeat_compiles_nothing_as_a_whole_on_a_cpu():
    """Its step is called with arrays, so that loops within it are not traced either."""
    if jax.default_backend() != "cpu":
        pytest.skip("a scan on accelerators")
    seen = []

    def step(operands, carry, index):
        seen.append(isinstance(carry, jax.core.Tracer))
        return carry + operands, index

    loops.repeat(step, jnp.float32(1.0), jnp.float32(0.0), 3)
    assert seen == [False] * 3
