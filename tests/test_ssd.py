"""SSD against a Python loop over batches and numpy."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import ignpx
from ignpx import Classifier, InvalidArgumentError, Request, Samples, UnlearningError, importance
from ignpx.methods import assd, lfssd, ssd

CLASSES = 4
SHAPE = (4, 4, 2)


class NormNet(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(2, 5, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(5, rngs=rngs)
        self.head = nnx.Linear(5, CLASSES, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.norm(self.conv(x))).mean((1, 2)))


def linear(params, x):
    return x.reshape(len(x), -1) @ params["w"] + params["b"]


def halved(images):
    return images / 2


def build(kind):
    fields = {"input_shape": SHAPE, "num_classes": CLASSES, "preprocess": halved}
    if kind == "function":
        params = {"w": jax.random.normal(jax.random.key(0), (32, CLASSES)) / 6, "b": jnp.ones(4)}
        return Classifier.from_function(linear, params, **fields)
    classifier = Classifier.from_nnx(NormNet(nnx.Rngs(0)), **fields)
    # Running statistics that are those of no batch, so that the mode of the model shows.
    norm = {"mean": jnp.linspace(-1, 1, 5), "var": jnp.linspace(0.5, 3, 5)}
    return classifier.replace(state={"norm": norm})


def samples(count, seed=0):
    """Images with a pixel that is always black."""
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(count, *SHAPE)).astype(np.float32)
    images[:, 0, 0] = 0
    return Samples(images, rng.integers(0, CLASSES, count).astype(np.int32))


def of_classes(everything, classes):
    chosen = np.isin(everything.labels, classes)
    return Samples(everything.images[chosen], everything.labels[chosen])


def loop_over_batches(classifier, samples, batch_size):
    @jax.jit
    @jax.grad
    def gradient(params, images, labels):
        inputs = classifier.preprocess(images)
        logits, _ = classifier.apply(params, classifier.state, inputs, train=False)
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

    total = jax.tree.map(lambda leaf: np.zeros(leaf.shape), classifier.params)
    begins = range(0, len(samples.labels), batch_size)
    for begin in begins:
        batch = (array[begin : begin + batch_size] for array in samples)
        of_batch = gradient(classifier.params, *batch)
        total = jax.tree.map(lambda t, g: t + np.asarray(g, np.float64) ** 2, total, of_batch)
    return jax.tree.map(lambda t: t / len(begins), total)


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def joined(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


# 4, 32 and 64 leave a ragged last batch; of 32, two batches are differentiated at once.
@pytest.mark.parametrize("batch_size", [1, 4, 32, 64, 70, 100])
@pytest.mark.parametrize("kind", ["nnx", "function"])
def test_importance_equals_a_loop_over_batches(kind, batch_size):
    classifier, data = build(kind), samples(70)
    actual = importance.squared_batch_gradients(classifier, data, batch_size=batch_size)
    expected = loop_over_batches(classifier, data, batch_size)
    for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert a.dtype == jnp.float32
        np.testing.assert_allclose(a, e, rtol=2e-5, atol=1e-7 * np.max(e))


def test_importance_of_the_target_layers_alone():
    classifier, data = build("nnx"), samples(9)
    some = importance.squared_batch_gradients(classifier, data, batch_size=4, patterns=("head",))
    every = importance.squared_batch_gradients(classifier, data, batch_size=4)
    assert jax.tree.leaves(some["conv"]) == jax.tree.leaves(some["norm"]) == []
    np.testing.assert_allclose(some["head"]["kernel"], every["head"]["kernel"], rtol=1e-5)


# Where the strength exceeds alpha the cap at 1 binds.
@pytest.mark.parametrize(("alpha", "strength"), [(1.3, 1.0), (2.0, 0.3), (1.1, 1.6)])
@pytest.mark.parametrize("kind", ["nnx", "function"])
def test_the_edit_is_that_of_the_paper(kind, alpha, strength):
    classifier, data = build(kind), samples(66)
    forget, retain = of_classes(data, [1]), of_classes(data, [0, 2, 3])
    # Neither fills whole batches, so that their order shows.
    assert len(forget.labels) % 4 == len(retain.labels) % 4 == 1
    request = Request.classes([1], CLASSES, forget_data=forget, retain_data=retain)
    method = ssd(alpha=alpha, strength=strength, batch_size=4)
    edited, info = ignpx.unlearn(method, classifier, request, jax.random.key(0))

    # All of the data in the order of the public code: what is retained, then what is forgotten.
    everything = Samples(*(np.concatenate(pair) for pair in zip(retain, forget, strict=True)))
    of_forget = joined(loop_over_batches(classifier, forget, 4))
    of_all = joined(loop_over_batches(classifier, everything, 4))
    selected = of_forget > alpha * of_all
    with np.errstate(divide="ignore", invalid="ignore"):
        factors = np.where(selected, np.minimum(strength * of_all / of_forget, 1), 1.0)
        nearest = np.nanmin(np.abs(of_forget / of_all / alpha - 1))
    assert nearest > 1e-4  # rounding moves nothing over the threshold
    assert 0 < selected.sum() < selected.size
    assert np.any(factors[selected] == 1) == (strength > alpha)
    assert np.any(factors[selected] < 1)
    largest = np.max(np.abs(joined(classifier.params)))
    np.testing.assert_allclose(
        joined(edited.params), joined(classifier.params) * factors, rtol=1e-5, atol=1e-5 * largest
    )
    assert float(info.coverage) == pytest.approx(selected.mean(), rel=1e-6)
    assert sum(info.summary()["selected_by_parameter"].values()) == selected.sum()
    assert bits(edited.state) == bits(classifier.state)


def test_parameters_that_nothing_depends_on_stay():
    """The weights of a pixel that is always black: 0/0."""
    classifier, data = build("function"), samples(60)
    request = Request.classes(
        [1],
        CLASSES,
        forget_data=of_classes(data, [1]),
        retain_data=of_classes(data, [0, 2, 3]),
    )
    method = ssd(alpha=1e-6, strength=1e-9, batch_size=4)
    edited, _ = ignpx.unlearn(method, classifier, request, jax.random.key(0))
    before, after = (np.asarray(c.params["w"]) for c in (classifier, edited))
    np.testing.assert_array_equal(after[:2], before[:2])
    # Everything else is selected, and all but removed.
    assert np.max(np.abs(after[2:])) < 1e-6 * np.max(np.abs(before))


def bounded():
    """Whole batches of 4: six of the retained, two of the forgotten, who share a pixel."""
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 2, 3, 1], 8).astype(np.int32)
    images = rng.normal(size=(32, *SHAPE)).astype(np.float32)
    images[:, 3, 3] = (labels == 1)[:, None]
    data = Samples(images, labels)
    return Request.classes(
        [1], CLASSES, forget_data=of_classes(data, [1]), retain_data=of_classes(data, [0, 2, 3])
    )


@pytest.mark.parametrize("kind", ["nnx", "function"])
def test_with_the_forget_samples_last_no_ratio_exceeds_the_inverse_of_their_share(kind):
    classifier, request = build(kind), bounded()
    forget, retain = request.forget_data, request.retain_data
    everything = Samples(*(np.concatenate(pair) for pair in zip(retain, forget, strict=True)))
    of_forget, of_all = (
        joined(importance.squared_batch_gradients(classifier, data, batch_size=4))
        for data in (forget, everything)
    )
    assert np.all(of_forget <= 8 / 2 * of_all * (1 + 1e-5))
    with pytest.raises(UnlearningError, match="lower alpha"):
        ignpx.unlearn(ssd(alpha=4.001, batch_size=4), classifier, request, jax.random.key(0))


def test_mixed_batches_lift_that_bound():
    classifier, request = build("function"), bounded()

    def coverage(alpha, shuffle, seed=0):
        method = ssd(alpha=alpha, batch_size=4, shuffle=shuffle)
        return float(method.unlearn(classifier, request, jax.random.key(seed))[1].coverage)

    assert coverage(3.99, shuffle=False) > 0
    assert coverage(4.001, shuffle=False) == 0
    assert coverage(6.0, shuffle=True) > 0


def test_only_shuffling_takes_the_key():
    classifier, request = build("function"), bounded()

    def edited(seed, shuffle):
        method = ssd(alpha=1.5, batch_size=4, shuffle=shuffle)
        return bits(method.unlearn(classifier, request, jax.random.key(seed))[0])

    assert edited(0, shuffle=False) == edited(1, shuffle=False)
    assert edited(0, shuffle=True) != edited(1, shuffle=True)


@pytest.mark.parametrize(
    "bad",
    [
        {"alpha": 0.0},
        {"alpha": float("nan")},
        {"strength": -1.0},
        {"batch_size": 0},
        {"batch_size": 2.5},
    ],
)
def test_bad_arguments(bad):
    (name,) = bad
    with pytest.raises(InvalidArgumentError, match=f"{name}="):
        ssd(**bad)


def loop_of_squared_norms(classifier, samples, batch_size):
    """Absolute gradients of LFSSD, a batch after another."""

    @jax.jit
    @jax.grad
    def gradient(params, images):
        inputs = classifier.preprocess(images)
        logits, _ = classifier.apply(params, classifier.state, inputs, train=False)
        return (logits**2).sum(1).mean()

    begins = range(0, len(samples.labels), batch_size)
    found = [
        joined(gradient(classifier.params, samples.images[begin : begin + batch_size]))
        for begin in begins
    ]
    return np.mean(np.abs(np.float64(found)), axis=0)


def split(data):
    forget, retain = of_classes(data, [1]), of_classes(data, [0, 2, 3])
    everything = Samples(*(np.concatenate(pair) for pair in zip(retain, forget, strict=True)))
    request = Request.classes([1], CLASSES, forget_data=forget, retain_data=retain)
    return request, forget, everything


@pytest.mark.parametrize("kind", ["nnx", "function"])
def test_lfssd_takes_absolute_gradients_of_squared_norms(kind):
    classifier, (request, forget, everything) = build(kind), split(samples(66))
    of_forget, of_all = (loop_of_squared_norms(classifier, d, 4) for d in (forget, everything))
    actual = joined(importance.absolute_batch_gradients(classifier, everything, batch_size=4))
    # A gradient is a difference of terms of about its largest entry.
    np.testing.assert_allclose(actual, of_all, rtol=2e-5, atol=1e-6 * np.max(of_all))

    method = lfssd(alpha=1.2, strength=0.5, batch_size=4)
    edited, info = ignpx.unlearn(method, classifier, request, jax.random.key(0))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = of_forget / of_all
        factors = np.where(ratios > 1.2, np.minimum(0.5 / ratios, 1), 1.0)
    assert np.nanmin(np.abs(ratios / 1.2 - 1)) > 1e-4  # rounding moves nothing over the threshold
    np.testing.assert_allclose(
        joined(edited.params), joined(classifier.params) * factors, rtol=1e-4, atol=1e-6
    )
    assert float(info.coverage) == pytest.approx(np.nanmean(ratios > 1.2), rel=1e-6)


def test_lfssd_reads_no_labels():
    classifier, (request, forget, _) = build("function"), split(samples(66))
    others = Samples(forget.images, (forget.labels + 1) % CLASSES)
    swapped = dataclasses.replace(request, forget_data=others)
    method = lfssd(alpha=1.2, batch_size=4)
    edited = [method.unlearn(classifier, r, jax.random.key(0))[0] for r in (request, swapped)]
    assert bits(edited[0]) == bits(edited[1])


@pytest.mark.parametrize("kind", ["nnx", "function"])
def test_assd_selects_above_a_percentile_that_follows_from_the_share(kind):
    classifier, (request, forget, everything) = build(kind), split(samples(66))
    of_forget, of_all = (
        joined(importance.squared_batch_gradients(classifier, d, batch_size=4))
        for d in (forget, everything)
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.float64(of_forget) / of_all
    known = ratios[np.isfinite(ratios)]
    share = len(forget.labels) / len(everything.labels)
    alpha = np.percentile(known, 100 - np.log(1 + 100 * share))
    edited, info = ignpx.unlearn(
        assd(strength=0.5, batch_size=4), classifier, request, jax.random.key(0)
    )
    selected = ratios > alpha
    with np.errstate(divide="ignore", invalid="ignore"):
        factors = np.where(selected, np.minimum(0.5 / ratios, 1), 1.0)
    np.testing.assert_allclose(
        joined(edited.params), joined(classifier.params) * factors, rtol=1e-5, atol=1e-7
    )
    assert float(info.coverage) == pytest.approx(selected.mean(), rel=1e-6)
