import jax
import jax.numpy as jnp
import numpy as np
import optax
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from ignpx.losses import cross_entropy, entropy, jensen_shannon, kl_divergence, negative_log_odds


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


@settings(deadline=None)
@given(
    teacher=arrays(np.float32, (4, 6), elements=st.floats(-20, 20, width=32)),
    student=arrays(np.float32, (4, 6), elements=st.floats(-20, 20, width=32)),
    temperature=st.sampled_from([0.5, 1.0, 4.0]),
)
def test_kl_divergence_equals_its_definition(teacher, student, temperature):
    p, q = (
        np.exp(z / temperature) / np.exp(z / temperature).sum(-1, keepdims=True)
        for z in (teacher.astype(np.float64), student.astype(np.float64))
    )
    expected = (p * np.log(p / q)).sum(-1)
    actual = kl_divergence(teacher, student, temperature)
    assert actual.shape == (4,)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=2e-5)


def test_the_gradient_of_the_kl_divergence_is_the_difference_of_the_softmaxes():
    teacher, student = (3 * jax.random.normal(jax.random.key(i), (5, 4)) for i in (0, 1))
    gradient = jax.grad(lambda z: kl_divergence(teacher, z, 2.0).sum())(student)
    expected = (jax.nn.softmax(student / 2) - jax.nn.softmax(teacher / 2)) / 2
    np.testing.assert_allclose(gradient, expected, atol=1e-6)
    assert np.all(kl_divergence(teacher, teacher, 2.0) == 0)


def probabilities(logits):
    logits = np.asarray(logits, np.float64)
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def test_jensen_shannon_is_the_definition_to_base_2():
    first, second = np.random.default_rng(0).normal(size=(2, 6, 5)) * 4
    p, q = probabilities(first), probabilities(second)
    m = (p + q) / 2
    expected = 0.5 * np.sum(p * np.log2(p / m), -1) + 0.5 * np.sum(q * np.log2(q / m), -1)
    actual = jensen_shannon(jnp.float32(first), jnp.float32(second))
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(jensen_shannon(jnp.float32(second), jnp.float32(first)), actual)


def test_jensen_shannon_lies_in_0_to_1_with_finite_gradients():
    sure = jnp.array([[200.0, 0.0, 0.0], [0.0, 200.0, 0.0]])
    other = jnp.array([[0.0, 0.0, 200.0], [0.0, 200.0, 0.0]])
    np.testing.assert_allclose(jensen_shannon(sure, other), [1.0, 0.0], atol=1e-6)
    gradient = jax.grad(lambda z: jensen_shannon(z, other).sum())(sure)
    assert np.all(np.isfinite(gradient))


def test_entropy_and_its_gradient():
    logits = np.random.default_rng(1).normal(size=(6, 5)) * 3
    p = probabilities(logits)
    expected = -np.sum(p * np.log(p), axis=-1)
    np.testing.assert_allclose(entropy(jnp.float32(logits)), expected, rtol=1e-5)
    # dH/dz_i = -p_i (log p_i + H)
    gradient = jax.grad(lambda z: entropy(z).sum())(jnp.float32(logits))
    np.testing.assert_allclose(gradient, -p * (np.log(p) + expected[:, None]), atol=1e-6)


MASKED = jnp.array([[1.0, 2.0, -jnp.inf, 0.5], [-jnp.inf, 300.0, 0.0, -jnp.inf]])
OTHER = jnp.array([[0.5, -1.0, -jnp.inf, 2.0], [-jnp.inf, 0.0, 3.0, -jnp.inf]])


def without_masked(function, *logits):
    """Sample by sample, of the classes that are not masked."""
    kept = [np.isfinite(row) for row in np.asarray(logits[0])]
    return [function(*(z[i, k] for z in logits)) for i, k in enumerate(kept)]


def test_masked_classes_do_not_count():
    for function, arguments in (
        (kl_divergence, (MASKED, OTHER)),
        (jensen_shannon, (MASKED, OTHER)),
        (entropy, (MASKED,)),
    ):
        actual = function(*arguments)
        np.testing.assert_allclose(actual, without_masked(function, *arguments), rtol=1e-6)
        for place in range(len(arguments)):
            gradient = jax.grad(lambda *z, f=function: f(*z).sum(), place)(*arguments)
            assert np.all(np.isfinite(gradient))
            np.testing.assert_array_equal(gradient[~np.isfinite(MASKED)], 0)


def test_a_class_that_one_prediction_rules_out():
    first = jnp.array([0.0, 0.0, -jnp.inf])
    second = jnp.array([0.0, -jnp.inf, 0.0])
    assert kl_divergence(first, second) == jnp.inf
    np.testing.assert_allclose(kl_divergence(first, jnp.zeros(3)), np.log(3 / 2), rtol=1e-6)
    # Half of each prediction is where the other one has nothing.
    np.testing.assert_allclose(jensen_shannon(first, second), 0.5, rtol=1e-6)


def test_what_is_not_a_number_is_not_hidden():
    broken = jnp.array([0.0, jnp.nan])
    values = (entropy(broken), kl_divergence(broken, broken), jensen_shannon(broken, broken))
    assert np.all(np.isnan(values))


def test_losses_of_half_precision_logits_are_float32():
    logits = (3 * jax.random.normal(jax.random.key(0), (5, 4))).astype(jnp.bfloat16)
    whole, labels = logits.astype(jnp.float32), jnp.arange(5) % 4
    for function, arguments in (
        (cross_entropy, (labels,)),
        (negative_log_odds, (labels,)),
        (kl_divergence, (logits[::-1],)),
        (jensen_shannon, (logits[::-1],)),
        (entropy, ()),
    ):
        actual = function(logits, *arguments)
        assert actual.dtype == jnp.float32
        np.testing.assert_array_equal(actual, function(whole, *arguments))
