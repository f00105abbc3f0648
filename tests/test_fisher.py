"""Fisher forgetting against loops over samples and labels, and numpy in PyTorch's layout."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ignpx
from by_hand import CLASSES, SHAPE, doubles, features, linear, logits, model, samples, softmax
from ignpx import (
    Changes,
    Classifier,
    InvalidArgumentError,
    Request,
    Samples,
    Sees,
    edits,
    importance,
)
from ignpx.methods import fisher

KEY = jax.random.key(0)


class NormNet(nnx.Module):
    """Its convolution has as many channels as there are classes; it is not the head for that."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(3, CLASSES, (2, 2), rngs=rngs)
        self.norm = nnx.BatchNorm(CLASSES, rngs=rngs)
        self.out = nnx.Linear(CLASSES, CLASSES, rngs=rngs)

    def __call__(self, x):
        return self.out(nnx.relu(self.norm(self.conv(x))).mean((1, 2)))


def build():
    classifier = Classifier.from_nnx(
        NormNet(nnx.Rngs(0)), input_shape=(3, 3, 3), num_classes=CLASSES
    )
    # Running statistics that are those of no batch, so that the mode of the model shows.
    norm = {"mean": jnp.linspace(-1, 1, CLASSES), "var": jnp.linspace(0.5, 3, CLASSES)}
    return classifier.replace(state={"norm": norm})


def images(count):
    return np.random.default_rng(1).normal(size=(count, 3, 3, 3)).astype(np.float32)


def requests(count=5):
    retain = Samples(images(count), np.array([0, 1, 3], np.int32)[np.arange(count) % 3])
    return {
        "class": Request.classes([2], CLASSES, retain_data=retain),
        "samples": Request.samples(CLASSES, retain, retain),
    }


def loop_over_labels(classifier, images):
    @jax.jit
    @jax.grad
    def gradient(params, image, label):
        z, _ = classifier.apply(params, classifier.state, image[None], train=False)
        return -jax.nn.log_softmax(z[0])[label]

    total = jax.tree.map(lambda leaf: np.zeros(leaf.shape), classifier.params)
    for image in images:
        p = softmax(np.asarray(classifier.logits(image[None]), float))[0]
        for label in range(CLASSES):
            one = gradient(classifier.params, image, label)
            total = jax.tree.map(
                lambda t, g, share=p[label]: t + share * np.asarray(g, float) ** 2, total, one
            )
    return jax.tree.map(lambda t: t / len(images), total)


def assert_close(actual, expected, **tolerance):
    jax.tree.map(lambda a, e: np.testing.assert_allclose(a, e, **tolerance), actual, expected)


def test_information_equals_a_loop():
    classifier = build()
    actual = importance.fisher_information(classifier, images(5))
    expected = loop_over_labels(classifier, images(5))
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.dtype == jnp.float32
        np.testing.assert_allclose(a, e, rtol=2e-5, atol=1e-6 * np.max(e))


def test_information_of_a_linear_model():
    """In more than one chunk, the last of them not full."""
    data, theta = samples(700), doubles(model().params)
    x, p = features(data.images), softmax(logits(theta, data.images))
    errors = p[:, None] - np.eye(CLASSES)
    # Of each class, the mean over labels of the squared error of the probabilities.
    squares = np.einsum("ny,nyc->nc", p, errors**2)
    actual = importance.fisher_information(model(), data.images)
    expected = {"w": (x**2).T @ squares / 700, "b": squares.mean(0)}
    assert_close(actual, expected, rtol=1e-4)
    some = importance.fisher_information(model(), data.images, patterns=("b",))
    assert some["w"] is None
    np.testing.assert_allclose(some["b"], expected["b"], rtol=1e-4)


# Linear (out, in), convolution (out, in, height, width).
TO_TORCH = {1: (0,), 2: (1, 0), 4: (3, 2, 0, 1)}
TO_FLAX = {1: (0,), 2: (1, 0), 4: (2, 3, 1, 0)}


def distribution_by_hand(name, theta, information, alpha, forget):
    """As the public code goes about it, but for how it knows the last layer."""
    theta, f = (np.array(a, float).transpose(TO_TORCH[a.ndim]) for a in (theta, information))
    last = name.startswith("out")
    variance = np.minimum(1 / (f + 1e-8), 1e3)
    if last:
        variance = np.minimum(variance, 1e2)
    variance = alpha * variance
    if f.ndim > 1:
        variance = variance.mean(axis=1, keepdims=True) + np.zeros(f.shape)
    mean = theta.copy()
    if last and forget is not None:
        mean[forget], variance[forget] = 0, 1e-4
    if last or f.ndim == 1:
        variance = 10 * variance
    return mean.transpose(TO_FLAX[f.ndim]), variance.transpose(TO_FLAX[f.ndim])


@pytest.mark.parametrize("kind", ["class", "samples"])
def test_the_noise_is_that_of_the_public_code(kind):
    classifier, alpha = build(), 1e-3
    # Some parameters matter so much that the caps do not bind.
    classifier = classifier.replace(params=jax.tree.map(lambda p: 3 * p, classifier.params))
    edited, info = ignpx.unlearn(fisher(alpha=alpha), classifier, requests()[kind], KEY)
    information = importance.fisher_information(classifier, images(5))
    unit = edits.draw(
        KEY,
        jax.tree.map(jnp.zeros_like, classifier.params),
        jax.tree.map(jnp.ones_like, classifier.params),
    )
    capped, variances = [], []
    for layer, parts in classifier.params.items():
        for part, theta in parts.items():
            f = information[layer][part]
            mean, variance = distribution_by_hand(
                f"{layer}/{part}", theta, f, alpha, 2 if kind == "class" else None
            )
            np.testing.assert_allclose(
                edited.params[layer][part],
                mean + np.sqrt(variance) * np.asarray(unit[layer][part], float),
                rtol=1e-4,
                atol=1e-6,
            )
            variances.append(np.ravel(variance))
            capped.append(np.ravel(1 / (f + 1e-8) >= (1e2 if layer == "out" else 1e3)))
    assert 0 < np.mean(np.concatenate(capped)) < 1
    assert info.summary() == {
        "deviation": pytest.approx(np.sqrt(np.concatenate(variances).mean()), rel=1e-4),
        "capped": pytest.approx(np.concatenate(capped).mean(), rel=1e-5),
    }
    np.testing.assert_array_equal(edited.state["norm"]["var"], classifier.state["norm"]["var"])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_a_draw_has_its_mean_and_its_variance(dtype):
    means = {"a": jnp.full(20000, 3, dtype), "b": jnp.arange(3, dtype=dtype)}
    variances = {"a": jnp.full(20000, 4.0), "b": jnp.zeros(3)}
    drawn = edits.draw(KEY, means, variances)
    assert drawn["a"].dtype == drawn["b"].dtype == dtype
    values = np.asarray(drawn["a"], float)
    assert values.mean() == pytest.approx(3, abs=0.06)
    assert values.std() == pytest.approx(2, rel=0.03)
    np.testing.assert_array_equal(drawn["b"], means["b"])


def test_leaves_draw_noise_of_their_own():
    zeros, ones = ({name: jnp.full(50, value) for name in "ab"} for value in (0.0, 1.0))
    drawn = edits.draw(KEY, zeros, ones)
    assert abs(np.corrcoef(drawn["a"], drawn["b"])[0, 1]) < 0.5


def test_defaults():
    assert {n: p.default for n, p in inspect.signature(fisher).parameters.items()} == {
        "alpha": 1e-6
    }
    method = fisher()
    assert method.sees == Sees.RETAIN
    assert Changes.STATE not in method.changes


def test_bad_arguments():
    with pytest.raises(InvalidArgumentError, match="alpha="):
        fisher(alpha=0.0)


def test_a_model_without_a_head():
    params = {"w": jnp.ones((CLASSES, 6)), "b": jnp.ones(CLASSES)}
    classifier = Classifier.from_function(
        lambda params, x: linear({**params, "w": params["w"].T}, x),
        params,
        input_shape=SHAPE,
        num_classes=CLASSES,
    )
    request = Request.classes([1], CLASSES, retain_data=samples(3, [0, 2]))
    with pytest.raises(InvalidArgumentError, match="as its last axis"):
        ignpx.unlearn(fisher(), classifier, request, KEY)
