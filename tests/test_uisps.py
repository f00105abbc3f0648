"""UISPS, and the two-teacher model on its images, against numpy."""

import inspect
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ignpx
from by_hand import (
    CLASSES,
    SHAPE,
    Adam,
    Sgd,
    added,
    assert_equal,
    bits,
    divergence,
    doubles,
    gradient,
    initialise,
    logits,
    model,
    recorded,
    samples,
    softmax,
)
from ignpx import (
    Changes,
    Classifier,
    InvalidArgumentError,
    Request,
    Sees,
)
from ignpx.adapters import split_nnx
from ignpx.data import Normalise
from ignpx.methods import METHODS, ttm, uisps
from ignpx.methods.uisps import Inverted, flattened, invert
from ignpx.steps import State

KEY = jax.random.key(7)
QUICK = {"samples": 3, "synthesis_steps": 4, "importance_share": 1.0}
LOUD = pytest.mark.filterwarnings("ignore::ignpx.UnlearningWarning")


def request(*forget, count=20):
    kept = [c for c in range(CLASSES) if c not in forget]
    return Request.classes(forget, CLASSES, retain_data=samples(count, kept, seed=1))


def stand_ins(classifier, asked, **settings):
    """The synthetic images of the forget classes, and how they were reported."""
    defaults = {
        "learning_rate": 0.01,
        "statistics": 0.01,
        "entropy": 0.05,
        "entropy_share": 0.5,
    }
    state, report = invert(**defaults | settings).run(State(classifier, asked), KEY, None)
    inputs, labels = flattened(state)
    return types.SimpleNamespace(inputs=inputs, labels=labels, **report._asdict())


class Spy:
    """`by_hand.initialise`, which keeps what it makes."""

    def __init__(self):
        self.made = []

    def __call__(self, key):
        self.made.append(initialise(key))
        return self.made[-1]


def masked(update, mask):
    return {name: np.where(mask[name], update[name], 0.0) for name in update}


def slope(inputs, errors):
    return gradient(2 * inputs, errors)  # of inputs, not of images that are to be halved


def fisher(theta, inputs, labels):
    total = {name: 0.0 for name in theta}
    for x, label in zip(inputs, labels, strict=True):
        error = softmax(logits(theta, 2 * x[None])) - np.eye(CLASSES)[[label]]
        total = {n: total[n] + g**2 / len(inputs) for n, g in slope(x[None], error).items()}
    return total


def suppressed(of_forget, of_retain, alpha):
    def normalised(scores):
        every = np.concatenate([scores[name].ravel() for name in ("w", "b")])
        return {n: (s - every.min()) / (every.max() - every.min()) for n, s in scores.items()}

    f, r = normalised(of_forget), normalised(of_retain)
    distance = min(np.min(np.abs(r[n] - alpha * f[n])) for n in f)
    assert distance > 1e-6  # rounding moves nothing over the threshold
    return {name: r[name] > alpha * f[name] for name in f}


@LOUD
@pytest.mark.parametrize("alpha", [0.8, 1.5])
def test_equals_numpy(monkeypatch, alpha):
    calls, spy = recorded(monkeypatch), Spy()
    settings = {"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.02, "batch_size": 8}
    method = uisps(**QUICK, **settings, alpha=alpha, epochs=3)
    before = model().replace(initialise=spy)
    asked = request(1)
    edited, info = ignpx.unlearn(method, before, asked, KEY)
    (call,) = calls
    kept, made = asked.retain_data.images / 2, np.asarray(call.data["made"], float)
    wanted = np.asarray(call.data["answers"], float)
    assert made.shape == (3, *SHAPE)
    # Four of eight, of twenty retained samples and three images: three copies of each.
    rows = {name: np.asarray(one).reshape(3, -1)[:, :29] for name, one in call.indices.items()}
    for epoch in range(3):
        synthetic = rows["synthetic"][epoch] == 1
        assert sorted(rows["made"][epoch][synthetic]) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
        assert sorted(rows["retain"][epoch][~synthetic]) == list(range(20))

    # The answers of the network that has learnt nothing.
    ((untrained, _),) = spy.made
    np.testing.assert_array_equal(wanted[:20], np.eye(CLASSES)[asked.retain_data.labels])
    np.testing.assert_allclose(
        wanted[20:], softmax(logits(doubles(untrained), 2 * made)), rtol=1e-5
    )

    theta = doubles(before.params)
    frozen = suppressed(
        fisher(theta, made, [1] * 3), fisher(theta, kept, asked.retain_data.labels), alpha
    )
    share = np.mean(np.concatenate([frozen[name].ravel() for name in ("w", "b")]))
    assert 0 < share < 1
    assert float(info.coverage) == pytest.approx(1 - share)

    optimizer, losses = Sgd(0.1, momentum=0.9, decay=0.02), []
    for batch in call.batches():
        of_made, answers = batch["synthetic"].reshape(-1, 1, 1, 1), batch["answers"]
        x = np.where(of_made, batch["made"], batch["retain"] / 2).astype(float)
        p = softmax(logits(theta, 2 * x))
        losses.append(-np.mean(np.sum(answers * np.log(p), axis=1)))
        update = optimizer.update(theta, slope(x, (p - answers) / len(p)))
        theta = added(theta, masked(update, {n: ~f for n, f in frozen.items()}))
    assert len(losses) == 3 * 4
    assert_equal(edited.params, theta)
    np.testing.assert_allclose(info.losses, losses, rtol=1e-4)
    for name, mask in frozen.items():
        after, original = (np.asarray(c.params[name]) for c in (edited, before))
        np.testing.assert_array_equal(after[mask], original[mask])
        assert np.all(after[~mask] != original[~mask])


def test_images_are_those_of_a_plain_loop():
    """Adam on the cross-entropy less the entropy of the first half, from normal noise."""
    settings = {"steps": 6, "learning_rate": 0.05, "entropy": 0.7, "entropy_share": 0.5}
    made = stand_ins(model(), request(2), samples=4, **settings)
    noise = jax.random.normal(jax.random.fold_in(KEY, 2), (4, *SHAPE))
    x = {"x": np.asarray(noise, float)}
    theta, optimizer = doubles(model().params), Adam(0.05)
    for _ in range(6):
        p = softmax(logits(theta, 2 * x["x"]))
        entropies = -np.sum(p * np.log(p), axis=1, keepdims=True)
        errors = (p - np.eye(CLASSES)[2]) / 4
        errors[:2] += 0.7 * (p * (np.log(p) + entropies))[:2] / 2
        x = added(x, optimizer.update(x, {"x": (errors @ theta["w"].T).reshape(x["x"].shape)}))
    np.testing.assert_allclose(made.inputs, x["x"], rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(made.labels, 2)
    right = logits(theta, 2 * x["x"]).argmax(1) == 2
    assert float(made.recognised) == pytest.approx(right.mean())


def test_the_entropy_term_makes_the_model_less_sure():
    def entropies(weight):
        settings = {"samples": 6, "steps": 60, "learning_rate": 0.1, "entropy_share": 0.5}
        made = stand_ins(model(), request(2), entropy=weight, **settings)
        p = softmax(logits(doubles(model().params), 2 * np.asarray(made.inputs)))
        return -np.sum(p * np.log(p + 1e-30), axis=1)

    without, raised = entropies(0.0), entropies(2.0)
    assert np.all(raised[:3] > 10 * without[:3])
    np.testing.assert_allclose(raised[3:], without[3:], rtol=1e-5)


def test_a_class_is_synthesised_for_itself_whatever_else_is_forgotten():
    settings = {"samples": 3, "steps": 4}
    both = stand_ins(model(), request(1, 3), **settings)
    alone = stand_ins(model(), request(3), **settings)
    np.testing.assert_array_equal(both.labels, [1, 1, 1, 3, 3, 3])
    np.testing.assert_array_equal(both.inputs[3:], alone.inputs)


def test_images_keep_to_the_range_of_real_ones():
    bounded = model().replace(preprocess=Normalise((0.5,), (0.5,)))
    made = stand_ins(bounded, request(1), samples=4, steps=9, learning_rate=3.0)
    assert float(jnp.abs(made.inputs).max()) == 1.0


@LOUD
@pytest.mark.parametrize(("oversampling", "copies"), [(None, 3), (1, 1), (4, 4)])
def test_oversampling(monkeypatch, oversampling, copies):
    calls = recorded(monkeypatch)
    method = uisps(**QUICK, batch_size=8, oversampling=oversampling)
    ignpx.unlearn(method, model(), request(0), KEY)
    drawn = np.asarray(calls[0].indices["synthetic"]).ravel()[: 20 + 3 * copies]
    assert drawn.sum() == 3 * copies
    # What the last batch is filled up with comes after all of them.
    assert calls[0].indices["synthetic"].size - drawn.size < 8


class NormNet(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(1, 4, (2, 2), rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.head = nnx.Linear(24, CLASSES, rngs=rngs)

    def __call__(self, x):
        return self.head(nnx.relu(self.norm(self.conv(x))).reshape(len(x), -1))


def initialise_norm_net(key):
    return split_nnx(NormNet(nnx.Rngs(key)))[1:]


@LOUD
def test_batch_norm():
    """Its statistics draw the images towards them, and stay in evaluation mode."""
    net = Classifier.from_nnx(
        NormNet(nnx.Rngs(0)), initialise=initialise_norm_net, input_shape=SHAPE, num_classes=CLASSES
    )
    # Statistics that inputs can have.
    _, (of_white,) = net.with_statistics(jnp.ones((2, *SHAPE)))
    net = net.replace(state={"norm": {"mean": of_white.mean, "var": jnp.full(4, 0.1)}})

    def distance(weight):
        settings = {"samples": 8, "steps": 40, "learning_rate": 0.1, "statistics": weight}
        made = stand_ins(net, request(1), **settings)
        _, (seen,) = net.with_statistics(made.inputs)
        assert made.norm_layers == 1
        return float(jnp.linalg.norm(seen.mean - seen.running_mean))

    assert distance(10.0) < 0.5 * distance(0.0)
    settings = {**QUICK, "batch_size": 8, "learning_rate": 0.1}
    for mode in ("training", "evaluation"):
        method = uisps(**settings, mode=mode)
        edited, info = ignpx.unlearn(method, net, request(1), KEY)
        assert (bits(edited.state) != bits(net.state)) == (Changes.STATE in method.changes)
        assert (mode == "training") == (Changes.STATE in method.changes)
        assert info.summary()["norm_layers"] == 1


@LOUD
@pytest.mark.parametrize("alpha", [None, 0.8])
def test_ttm_equals_numpy(monkeypatch, alpha):
    calls = recorded(monkeypatch)
    settings = {"epochs": 3, "learning_rate": 0.03, "batch_size": 8, "retain_share": 0.5}
    before, asked = model(), request(1)
    method = ttm(**QUICK, **settings, temperature=2.0, alpha=alpha)
    edited, info = ignpx.unlearn(method, before, asked, KEY)
    (call,) = calls
    inputs, bad = np.asarray(call.data.images, float), call.data.bad
    # As many as a retained class has samples, 20 of three, by copies of three images.
    assert bad.sum() == 6
    np.testing.assert_array_equal(inputs[bad][:3], inputs[bad][3:])
    kept = inputs[~bad]
    assert len(kept) == 10
    halves = {(image / 2).tobytes() for image in np.asarray(asked.retain_data.images)}
    assert {np.float32(image).tobytes() for image in kept} <= halves

    theta, optimizer, losses = doubles(before.params), Adam(0.03), []
    mask = {name: np.ones(theta[name].shape, bool) for name in theta}
    if alpha is not None:
        every = np.asarray(asked.retain_data.images, float) / 2
        of_retain = fisher(theta, every, asked.retain_data.labels)
        frozen = suppressed(fisher(theta, inputs[bad][:3], [1] * 3), of_retain, alpha)
        mask = {name: ~frozen[name] for name in theta}
    good, incompetent = (doubles(call.extra_args[name].params) for name in ("good", "bad"))
    for x, of_bad in call.batches():
        taught = np.where(of_bad[:, None], logits(incompetent, 2 * x), logits(good, 2 * x))
        value, errors = divergence(theta, 2 * x, taught, 2.0)
        losses.append(value)
        theta = added(theta, masked(optimizer.update(theta, slope(x, errors)), mask))
    assert_equal(edited.params, theta)
    np.testing.assert_allclose(info.losses, losses, rtol=1e-4, atol=1e-6)
    assert edited.preprocess is before.preprocess
    for name in ("w", "b"):
        after, original = (np.asarray(c.params[name]) for c in (edited, before))
        np.testing.assert_array_equal(after != original, mask[name])
    if alpha is not None:
        share = np.mean(np.concatenate([mask[name].ravel() for name in ("w", "b")]))
        assert float(info.coverage) == pytest.approx(share)


@LOUD
def test_ttm_preprocesses_only_what_it_draws():
    sizes = []

    def preprocess(images):
        sizes.append(len(images))
        return images / 2

    method = ttm(**QUICK, batch_size=8, retain_share=0.25)
    ignpx.unlearn(method, model().replace(preprocess=preprocess), request(1), KEY)
    assert max(sizes) == 5


def test_poor_images_are_a_doubt():
    assert Inverted(1.0, 0).doubts(request(1)) == []
    (doubt,) = Inverted(0.2, 0).doubts(request(1))
    assert doubt.startswith("the model takes only 20% of the synthetic images")
    assert Inverted(0.2, 3).summary() == {"recognised": 0.2, "norm_layers": 3}


def test_defaults_and_what_they_see():
    of = {n: p.default for n, p in inspect.signature(uisps).parameters.items()}
    assert (of["samples"], of["synthesis_steps"], of["synthesis_learning_rate"]) == (32, 1000, 0.01)
    assert (of["statistics"], of["entropy"], of["alpha"]) == (0.01, 0.05, 1.5)
    assert (of["epochs"], of["batch_size"], of["learning_rate"]) == (1, 128, 0.002)
    for name in ("uisps", "ttm", "ttm-sps"):
        assert METHODS[name]().sees == Sees.RETAIN
    assert METHODS["ttm-sps"].keywords == {"alpha": 1.5}  # type: ignore[attr-defined]  # a partial


def test_a_model_that_cannot_be_made_anew_is_refused():
    with pytest.raises(InvalidArgumentError, match="initialise="):
        ignpx.unlearn(uisps(**QUICK), model().replace(initialise=None), request(1), KEY)


@pytest.mark.parametrize(
    ("method", "bad"),
    [
        (uisps, {"samples": 0}),
        (uisps, {"oversampling": 0}),
        (uisps, {"entropy_share": 1.5}),
        (uisps, {"importance_share": 0.0}),
        (uisps, {"alpha": 0.0}),
        (uisps, {"entropy": -0.1}),
        (uisps, {"momentum": -1.0}),
        (uisps, {"mode": "eval"}),
        (ttm, {"alpha": -1.0}),
        (ttm, {"samples": 0}),
        (ttm, {"entropy_share": 1.5}),
        (ttm, {"synthesis_learning_rate": 0.0}),
        (ttm, {"oversampling": 1.5}),
        (ttm, {"temperature": 0.0}),
        (ttm, {"retain_share": 0.0}),
    ],
)
def test_bad_arguments(method, bad):
    (name,) = bad
    with pytest.raises(InvalidArgumentError, match=f"{name}="):
        method(**bad)
