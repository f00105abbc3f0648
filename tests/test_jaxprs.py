"""`ignpx.jaxprs`: what is evaluated by a rule is evaluated within calls, too."""

import jax
import jax.numpy as jnp
import numpy as np

from ignpx import convolutions, jaxprs


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
    np.testing.assert_allclose(convolutions.fast(jax.grad(loop))(*arguments), expected, rtol=1e-6)
    assert "closed_call" not in operations(jax.grad(loop), *arguments)
