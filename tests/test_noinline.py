"""A `noinline` function is compiled as a unit of its own, and computes the same."""

import jax
import jax.numpy as jnp

from closeness import assert_sums_close
from ignpx._xla.noinline import noinline

# See conftest.py.
PATCHES = True


def scaled(x, factor):
    # `where` and `clip` are compiled functions themselves, and become part of the unit.
    return jnp.where(x > 0, jnp.sin(x), jnp.clip(x, -1.0)) * factor


def calls(function, *arguments):
    """How many calls are left in what XLA has made of a function."""
    return jax.jit(function).lower(*arguments).compile().as_text().count(" call(")


def test_a_unit_stays_one():
    x = jnp.arange(12.0).reshape(3, 4)
    unit = noinline(scaled, static=(1,))
    assert calls(lambda x: unit(x + 1.0, 3.0) + 1.0, x) == 1
    assert calls(lambda x: scaled(x + 1.0, 3.0) + 1.0, x) == 0


def test_it_is_transformed_as_the_function_is():
    x = jnp.arange(12.0).reshape(3, 4)
    unit = noinline(scaled, static=(1,))

    def everything(function):
        gradient = jax.grad(lambda row: jnp.sum(function(row, 2.0)))
        tangents = jax.jvp(lambda x: function(x, 2.0), (x,), (jnp.ones_like(x),))
        return jax.jit(jax.vmap(gradient))(x), *tangents

    for found, wanted in zip(everything(unit), everything(scaled), strict=True):
        assert_sums_close(found, wanted, 1e-6)


def test_an_accelerator_fuses_it(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert calls(lambda x: noinline(scaled, static=(1,))(x, 3.0) + 1.0, jnp.ones(3)) == 0


def test_a_unit_stays_one_on_a_mesh():
    """Else several devices compute what is fused into each of its users again and again."""
    mesh = jax.sharding.AbstractMesh((2,), ("data",))
    with jax.sharding.use_abstract_mesh(mesh):
        lowered = jax.jit(lambda x: noinline(scaled, static=(1,))(x, 3.0)).lower(jnp.ones((4, 2)))
    assert 'inlineable = "false"' in lowered.as_text()
