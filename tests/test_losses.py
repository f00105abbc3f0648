import jax
import jax.numpy as jnp
import numpy as np
import optax
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ignpx.losses import cross_entropy, negative_log_odds


@settings(deadline=None)
@given(
    logits=arrays(np.float32, (5, 7), elements=st.floats(-20, 20, width=32)),
    labels=arrays(np.int32, (5,), elements=st.integers(0, 6)),
)
def test_equals_the_usual_form_where_that_is_precise(logits, labels):
    usual = optax.softmax_cross_entropy_with_integer_labels(
        logits.astype(np.float64).astype(np.float32), labels
    )
    np.testing.assert_allclose(cross_entropy(logits, labels), usual, rtol=1e-4, atol=2e-6)


def test_small_losses_and_gradients_keep_their_relative_precision():
    margins = np.asarray([20.0, 40.0, 80.0])
    logits = jnp.asarray(np.stack([margins, np.zeros(3), np.zeros(3)], axis=1), jnp.float32)
    labels = jnp.zeros(3, jnp.int32)
    exact = np.log1p(2 * np.exp(-margins))
    np.testing.assert_allclose(cross_entropy(logits, labels), exact, rtol=1e-5)
    gradient = jax.grad(lambda z: cross_entropy(z, labels).sum())(logits)
    # d/dz_y = -(1 - p_y), d/dz_j = p_j
    odds = np.exp(-margins) / (1 + 2 * np.exp(-margins))
    np.testing.assert_allclose(gradient, np.stack([-2 * odds, odds, odds], axis=1), rtol=1e-5)


def test_log_odds_have_the_gradient_of_the_cross_entropy_without_its_factor():
    logits = jax.random.normal(jax.random.key(0), (6, 5)) * 3
    labels = jnp.arange(6) % 5
    wrong = 1 - jax.nn.softmax(logits)[jnp.arange(6), labels]
    plain, free = (
        jax.grad(lambda z, loss=loss: loss(z, labels).sum())(logits)
        for loss in (cross_entropy, negative_log_odds)
    )
    np.testing.assert_allclose(plain, free * wrong[:, None], rtol=1e-4)
    np.testing.assert_allclose(
        negative_log_odds(logits, labels), jnp.log(wrong / (1 - wrong)), rtol=1e-4, atol=1e-5
    )
