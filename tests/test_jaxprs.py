"""`ignpx._xla.jaxprs`: what is evaluated by a rule is evaluated within calls, too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.xla_metadata import set_xla_metadata

from closeness import assert_sums_close
from ignpx._xla import convolutions, factors, jaxprs

# See conftest.py.
PATCHES = True


def operations(function, *arguments):
    """Names of what is computed, within calls too."""
    found = []
    jaxpr = jax.make_jaxpr(function)(*arguments)

    def rule(_, equation, values):
        found.append(equation.primitive.name)
        return jaxprs.bind(equation, values)

    jaxprs.walk(jaxpr.jaxpr, jaxpr.consts, jax.tree.leaves(arguments), rule)
    return found


def test_gradients_of_loops_that_are_computed_again():
    """Their jaxprs have a `closed_call`, whose parameters have names of their own."""

    @jax.checkpoint
    def loop(weights, x):
        return jax.lax.scan(lambda y, _: (jnp.sin(y @ weights), None), x, length=3)[0].sum()

    arguments = jax.random.normal(jax.random.key(0), (2, 2)), jnp.ones(2)
    assert "closed_call" in str(jax.make_jaxpr(jax.grad(loop))(*arguments))
    expected = jax.grad(loop)(*arguments)
    assert_sums_close(convolutions.fast(jax.grad(loop))(*arguments), expected, 1e-6)
    assert "closed_call" not in operations(jax.grad(loop), *arguments)


def evaluated(function):
    """The function by a rule that changes nothing."""

    def run(*arguments):
        closed = jax.make_jaxpr(function)(*arguments)
        leaves = jax.tree.leaves(arguments)
        return jaxprs.walk(
            closed.jaxpr, closed.consts, leaves, lambda _, equation, v: jaxprs.bind(equation, v)
        )

    return run


def test_scope_names_and_contexts_are_kept():
    def function(x):
        with jax.named_scope("outer"), set_xla_metadata(kept="yes"):
            return jax.jit(jax.named_call(jnp.sin, name="inner"))(x)

    equation = jax.make_jaxpr(evaluated(function))(jnp.ones(3)).eqns[-1]
    assert equation.primitive.name == "sin"
    assert equation.ctx.xla_metadata == {"kept": "yes"}
    names = str(equation.source_info.name_stack)
    assert names.startswith("outer")
    assert names.endswith("inner")


def test_what_is_set_apart_stays_so_when_it_is_taken_again():
    """A gradient of what is fast, taken fast itself, computes by the same units."""
    images = jax.random.normal(jax.random.key(0), (2, 9, 9, 3))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 3, 4))

    def loss(images):
        y = jax.lax.conv_general_dilated(
            images, kernel, (1, 1), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jnp.sum(jnp.square(y))

    once = jax.grad(convolutions.fast(loss))
    units = []
    for function in (once, convolutions.fast(once)):
        text = jax.jit(function).lower(images).compile().as_text()
        units.append(text.count(" call("))
    assert units[0] == units[1] > 0
    assert_sums_close(convolutions.fast(once)(images), once(images), 1e-6)


def test_this_version_of_jax_has_all_that_is_relied_on():
    assert jaxprs.missing() == []


NAMES = ("CALLS", "REMATS", "CONVOLUTION", "PRODUCT", "SCAN", "CASTS")


@pytest.mark.parametrize("name", NAMES)
def test_what_is_renamed_is_noticed_once(name, monkeypatch):
    known = getattr(jaxprs, name)
    monkeypatch.setattr(jaxprs, name, "other" if isinstance(known, str) else ("other",))
    jaxprs.warn_of_missing.cache_clear()
    try:
        with pytest.warns(RuntimeWarning, match="it has no operation other. Results are right"):
            factors.read(lambda w, x: jnp.sum(x @ w), jnp.ones((3, 2)), jnp.ones(3))
        convolutions.fast(jnp.sin)(jnp.ones(2))  # a second warning would be an error
    finally:
        monkeypatch.undo()
        jaxprs.warn_of_missing.cache_clear()


def test_a_version_without_bind_params(monkeypatch):
    """What its equations call is not taken apart then."""
    monkeypatch.delattr("jax.extend.core.Primitive.get_bind_params")
    monkeypatch.setattr(jaxprs, "warn_of_missing", lambda: None)
    assert jaxprs.missing() == ["`Primitive.get_bind_params`"]
    np.testing.assert_allclose(evaluated(jnp.sin)(jnp.ones(3))[0], np.sin(np.ones(3)), rtol=1e-6)
