"""`ignpx.jaxprs`: what is known of a function's arguments is computed once."""

import jax
import jax.numpy as jnp
import numpy as np

from ignpx import convolutions, jaxprs


def network(known, later):
    """A convolution and a dense layer that are known, a dense layer that is not."""
    kernel, first, images = known["kernel"], known["first"], known["images"]
    numbers = ("NHWC", "HWIO", "NHWC")
    x = jax.lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=numbers)
    x = jax.nn.relu(x.reshape(len(x), -1)) @ first
    return {"logits": jax.jit(jnp.tanh)(x) @ later["last"], "features": x}


def operands():
    keys = iter(jax.random.split(jax.random.key(0), 4))
    known = {
        "kernel": jax.random.normal(next(keys), (3, 3, 3, 2)),
        "first": jax.random.normal(next(keys), (32, 5)),
        "images": jax.random.normal(next(keys), (6, 4, 4, 3)),
    }
    return known, {"last": jax.random.normal(next(keys), (5, 4))}


def operations(function, *arguments):
    """Names of what is computed, within calls too."""
    found = []
    jaxpr = jax.make_jaxpr(function)(*arguments)

    def rule(_, equation, values):
        found.append(equation.primitive.name)
        return jaxprs.bind(equation, values)

    jaxprs.walk(jaxpr.jaxpr, jaxpr.consts, jax.tree.leaves(arguments), rule)
    return found


def test_begun_gives_what_the_function_gives():
    known, later = operands()
    for function in (network, convolutions.fast(network)):
        rest = jaxprs.begun(function, known, later)
        for scale in (1.0, -2.0):
            scaled = jax.tree.map(lambda leaf, scale=scale: scale * leaf, later)
            expected = network(known, scaled)
            actual = rest(scaled)
            assert jax.tree.structure(actual) == jax.tree.structure(expected)
            for name, value in expected.items():
                np.testing.assert_allclose(actual[name], value, rtol=1e-5, atol=1e-5)


def test_begun_leaves_only_what_the_rest_needs():
    known, later = operands()
    assert operations(network, known, later).count("dot_general") == 2
    left = operations(jaxprs.begun(network, known, later), later)
    assert left.count("dot_general") == 1
    assert "conv_general_dilated" not in left


def test_begun_in_a_compiled_loop():
    known, later = operands()

    @jax.jit
    def logits(known, later, scales):
        rest = jaxprs.begun(network, known, later)
        return jax.lax.map(lambda scale: rest({"last": scale * later["last"]})["logits"], scales)

    scales = jnp.array([0.5, 1.0, 3.0])
    expected = scales[:, None, None] * network(known, later)["logits"]
    np.testing.assert_allclose(logits(known, later, scales), expected, rtol=1e-5, atol=1e-5)


def test_begun_where_nothing_is_awaited_and_nothing_is_known():
    known, later = operands()
    rest = jaxprs.begun(lambda known, _: known["images"] + 1, known, later)
    np.testing.assert_array_equal(rest(later), known["images"] + 1)
    rest = jaxprs.begun(lambda _, later: later["last"] * 2, {}, later)
    np.testing.assert_array_equal(rest(later), later["last"] * 2)
