"""Attacks on a linear model, where numpy has their formulas, and a loop for a curved one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ignpx import Classifier, InvalidArgumentError, adversarial
from ignpx.data.preprocessing import Normalise

CLASSES, SHAPE, COUNT = 4, (2, 2, 3), 9
NORMALISE = Normalise((0.5, 0.4, 0.3), (0.2, 0.25, 0.5))
# What the whole range of intensities is in the values of an input, channel by channel.
SCALE = 1 / np.array(NORMALISE.std)
BOUNDS = ((0 - np.array(NORMALISE.mean)) * SCALE, (1 - np.array(NORMALISE.mean)) * SCALE)
rng = np.random.default_rng(0)
WEIGHTS, BIAS = rng.normal(size=(12, CLASSES)), rng.normal(size=CLASSES)
INPUTS = (rng.uniform(0.1, 0.9, (COUNT, *SHAPE)) - NORMALISE.mean) * SCALE


def linear(params, x):
    return x.reshape(len(x), -1) @ params["w"] + params["b"]


def curved(params, x):
    return jnp.tanh(linear(params["in"], x)) @ params["out"]


def build(function=linear, params=None, **fields):
    params = {"w": WEIGHTS, "b": BIAS} if params is None else params
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)
    fields = {"preprocess": NORMALISE, **fields}
    return Classifier.from_function(
        function, params, input_shape=SHAPE, num_classes=CLASSES, **fields
    )


def logits(x):
    return np.asarray(x, np.float64).reshape(len(x), -1) @ WEIGHTS + BIAS


LABELS = logits(INPUTS).argmax(1)
TARGETS = (LABELS + 1 + np.arange(COUNT) % 3) % CLASSES


def cross_entropy_gradient(x, labels):
    z = logits(x)
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    return ((p - np.eye(CLASSES)[labels]) @ WEIGHTS.T).reshape(x.shape)


def moved_by(outcome):
    """The change of each input in intensities, flat."""
    return ((np.asarray(outcome.inputs) - INPUTS) / SCALE).reshape(COUNT, -1)


def consistent(outcome, labels, targeted):
    predicted = logits(outcome.inputs).argmax(1)
    np.testing.assert_array_equal(outcome.predicted, predicted)
    np.testing.assert_array_equal(outcome.success, (predicted == labels) == targeted)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("bounded", [False, True])
def test_fgsm(targeted, bounded):
    labels = TARGETS if targeted else LABELS
    bounds = NORMALISE.bounds if bounded else None
    outcome = adversarial.fgsm(
        build(), INPUTS, labels, epsilon=0.2, targeted=targeted, bounds=bounds
    )
    sign = np.sign(cross_entropy_gradient(INPUTS, labels))
    expected = INPUTS + (-1 if targeted else 1) * 0.2 * SCALE * sign
    assert np.any(expected < BOUNDS[0])
    if bounded:
        expected = np.clip(expected, *BOUNDS)
    np.testing.assert_allclose(outcome.inputs, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(outcome.norm, np.abs(moved_by(outcome)).max(1), rtol=1e-4)
    consistent(outcome, labels, targeted)
    assert np.any(outcome.success)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("bounded", [False, True])
def test_pgd(targeted, bounded):
    labels = TARGETS if targeted else LABELS
    bounds = NORMALISE.bounds if bounded else None
    # Seven steps of 0.03 would leave the cube.
    outcome = adversarial.pgd(
        build(),
        INPUTS,
        labels,
        epsilon=0.11,
        step_size=0.03,
        steps=7,
        targeted=targeted,
        bounds=bounds,
    )
    x = INPUTS
    for _ in range(7):
        gradient = cross_entropy_gradient(x, labels)
        x = x + (-1 if targeted else 1) * 0.03 * SCALE * np.sign(gradient)
        x = np.clip(x, INPUTS - 0.11 * SCALE, INPUTS + 0.11 * SCALE)
        x = np.clip(x, *BOUNDS) if bounded else x
    np.testing.assert_allclose(outcome.inputs, x, rtol=1e-5, atol=1e-5)
    assert np.all(np.asarray(outcome.norm) <= 0.11 + 1e-5)
    assert np.max(outcome.norm) == pytest.approx(0.11, abs=1e-5)
    consistent(outcome, labels, targeted)


def test_the_sign_survives_a_model_that_is_sure():
    """The usual softmax minus one would be zero here."""
    classifier = build(params={"w": 30 * WEIGHTS, "b": 30 * BIAS})
    chosen = np.argsort(np.sort(logits(INPUTS))[:, -1] - np.sort(logits(INPUTS))[:, -2])[-3:]
    outcome = adversarial.fgsm(classifier, INPUTS[chosen], LABELS[chosen], epsilon=0.1)
    changes = np.abs(np.asarray(outcome.inputs) - INPUTS[chosen]) / SCALE
    np.testing.assert_allclose(changes, 0.1, rtol=1e-4)


def test_deepfool_takes_one_step_across_the_nearest_of_the_planes():
    outcome = adversarial.deepfool(build(), INPUTS, LABELS)
    z = logits(INPUTS)
    # By intensities, not by the values of inputs: the model of the intensities is another one.
    weights = WEIGHTS * np.tile(SCALE, 4)[:, None]
    for row in range(COUNT):
        y = LABELS[row]
        others = [k for k in range(CLASSES) if k != y]
        planes = {k: weights[:, k] - weights[:, y] for k in others}
        k = min(others, key=lambda k: abs(z[row, k] - z[row, y]) / np.linalg.norm(planes[k]))
        step = abs(z[row, k] - z[row, y]) / np.linalg.norm(planes[k]) ** 2 * planes[k]
        np.testing.assert_allclose(moved_by(outcome)[row], 1.02 * step, rtol=1e-5, atol=1e-5)
        assert outcome.predicted[row] == k
        assert outcome.norm[row] == pytest.approx(1.02 * np.linalg.norm(step), rel=1e-5)
    assert np.all(outcome.success)


def test_deepfool_of_a_curved_model_equals_a_loop():
    params = {
        "in": {"w": rng.normal(size=(12, 8)) / 3, "b": rng.normal(size=8)},
        "out": rng.normal(size=(8, CLASSES)),
    }
    classifier = build(curved, params)
    one = jax.jit(lambda x: classifier.logits(x[None])[0])
    jacobian = jax.jit(jax.jacrev(one))
    labels = np.array([int(one(x).argmax()) for x in INPUTS.astype(np.float32)])
    labels[0] = (labels[0] + 1) % CLASSES  # misclassified: nothing is left to do
    outcome = adversarial.deepfool(classifier, INPUTS, labels, overshoot=0.1, steps=20)
    taken = []
    for row in range(COUNT):
        x, total, steps = np.float32(INPUTS[row]), np.zeros(SHAPE), 0
        while steps < 20 and int(one(x).argmax()) == labels[row]:
            z, gradients = np.asarray(one(x), float), np.asarray(jacobian(x), float) * SCALE
            y, best = labels[row], (np.inf, None)
            for k in set(range(CLASSES)) - {int(y)}:
                w, gap = gradients[k] - gradients[y], abs(z[k] - z[y])
                best = min(best, (gap / np.sqrt((w**2).sum()), gap / (w**2).sum() * w), key=_first)
            total = total + best[1]
            x, steps = np.float32(INPUTS[row] + 1.1 * SCALE * total), steps + 1
        taken.append(steps)
        np.testing.assert_allclose(outcome.inputs[row], x, rtol=1e-5, atol=1e-5)
    assert taken[0] == 0
    assert max(taken) > 1
    assert np.all(outcome.success)


def _first(pair):
    return pair[0]


def carlini_wagner_in_numpy(labels, targeted, bounded, constant, confidence, searches, steps, rate):
    """One input after another, one descent after another."""
    nearest, norms = INPUTS.copy(), np.zeros(COUNT)
    low, high = (np.broadcast_to(bound, SHAPE) for bound in BOUNDS)
    for row in range(COUNT):
        x0, label = INPUTS[row], labels[row]
        c, failed, succeeded, best = constant, 0.0, np.inf, np.inf
        for _ in range(searches):
            share = 2 * (x0 - low) / (high - low) - 1
            w = np.arctanh(share * (1 - 1e-6)) if bounded else np.zeros(SHAPE)
            first, second, found = np.zeros(SHAPE), np.zeros(SHAPE), False
            for step in range(1, steps + 1):
                x = low + (high - low) * (np.tanh(w) + 1) / 2 if bounded else x0 + SCALE * w
                inner = (high - low) / 2 / np.cosh(w) ** 2 if bounded else SCALE
                z = logits(x[None])[0]
                other = max(set(range(CLASSES)) - {int(label)}, key=lambda k: z[k])
                up, down = (other, label) if targeted else (label, other)
                margin, distance = z[up] - z[down], np.sum(((x - x0) / SCALE) ** 2)
                if margin < 0 and margin <= -confidence:
                    found = True
                    if distance < best:
                        best, nearest[row], norms[row] = distance, x, np.sqrt(distance)
                gradient = 2 * (x - x0) / SCALE**2
                if margin > -confidence:
                    gradient = gradient + c * (WEIGHTS[:, up] - WEIGHTS[:, down]).reshape(SHAPE)
                gradient = gradient * inner
                first = 0.9 * first + 0.1 * gradient
                second = 0.999 * second + 0.001 * gradient**2
                corrected = first / (1 - 0.9**step), second / (1 - 0.999**step)
                w = w - rate * corrected[0] / (np.sqrt(corrected[1]) + 1e-8)
            if found:
                succeeded = min(succeeded, c)
            else:
                failed = max(failed, c)
            c = (failed + succeeded) / 2 if np.isfinite(succeeded) else 10 * c
    return nearest, norms


@pytest.mark.parametrize(
    ("targeted", "bounded", "confidence"), [(False, False, 0.5), (True, True, 0.0)]
)
def test_carlini_wagner(targeted, bounded, confidence):
    labels = TARGETS if targeted else LABELS
    # From a constant that fails for most, over one that succeeds, to one between.
    settings = {"constant": 0.002, "confidence": confidence, "searches": 5, "steps": 30}
    outcome = adversarial.carlini_wagner(
        build(),
        INPUTS,
        labels,
        targeted=targeted,
        bounds=NORMALISE.bounds if bounded else None,
        learning_rate=0.05,
        **settings,
    )
    nearest, norms = carlini_wagner_in_numpy(labels, targeted, bounded, **settings, rate=0.05)
    assert np.mean(norms > 0) > 0.5
    np.testing.assert_allclose(outcome.inputs, nearest, rtol=2e-4, atol=2e-4)
    np.testing.assert_allclose(outcome.norm, norms, rtol=1e-3, atol=1e-5)
    consistent(outcome, labels, targeted)
    z = logits(outcome.inputs)
    own = z[np.arange(COUNT), labels]
    other = np.where(np.eye(CLASSES)[labels] == 1, -np.inf, z).max(1)
    margin = (own - other) * (1 if targeted else -1)
    assert np.all(margin[np.asarray(outcome.success)] >= confidence - 1e-4)
    if bounded:
        assert np.all(np.asarray(outcome.inputs) >= BOUNDS[0] - 1e-5)
        assert np.all(np.asarray(outcome.inputs) <= BOUNDS[1] + 1e-5)


def test_carlini_wagner_comes_near_the_shortest_way():
    """Which DeepFool takes exactly where the model is linear."""
    shortest = adversarial.deepfool(build(), INPUTS, LABELS, overshoot=0.0).norm
    found = adversarial.carlini_wagner(build(), INPUTS, LABELS, searches=8, steps=200)
    assert np.all(found.success)
    ratio = np.asarray(found.norm) / np.asarray(shortest)
    assert np.all(ratio > 0.999)
    assert np.all(ratio < 1.1)


def test_an_attack_that_fails_says_so():
    tiny = {"epsilon": 1e-6}
    for outcome in (
        adversarial.fgsm(build(), INPUTS, LABELS, **tiny),
        adversarial.pgd(build(), INPUTS, LABELS, **tiny),
        adversarial.carlini_wagner(build(), INPUTS, LABELS, constant=1e-9, searches=1, steps=3),
    ):
        assert not np.any(outcome.success)
        np.testing.assert_array_equal(outcome.predicted, LABELS)
    # The last of them: the input itself.
    np.testing.assert_array_equal(outcome.inputs, np.float32(INPUTS))
    np.testing.assert_array_equal(outcome.norm, 0)


def test_deepfool_where_there_is_no_gradient():
    classifier = build(params={"w": 0 * WEIGHTS, "b": BIAS})
    labels = np.full(COUNT, BIAS.argmax())
    outcome = adversarial.deepfool(classifier, INPUTS, labels, steps=3)
    assert not np.any(outcome.success)
    np.testing.assert_array_equal(outcome.inputs, np.float32(INPUTS))


def test_lengths_are_those_of_inputs_where_nothing_is_known_of_intensities():
    classifier = build(preprocess=lambda images: images)
    outcome = adversarial.fgsm(classifier, INPUTS, LABELS, epsilon=0.3)
    np.testing.assert_allclose(np.abs(np.asarray(outcome.inputs) - INPUTS), 0.3, rtol=1e-4)
    np.testing.assert_allclose(outcome.norm, 0.3, rtol=1e-4)


def test_in_batches_changes_nothing():
    attack = functools.partial(adversarial.pgd, build(), epsilon=0.1, steps=3)
    whole, parts = attack(INPUTS, LABELS), adversarial.in_batches(attack, INPUTS, LABELS, 4)
    for one, other in zip(whole, parts, strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, rtol=1e-6)


def test_runner_up():
    z = rng.normal(size=(20, CLASSES))
    labels = rng.integers(0, CLASSES, 20)
    expected = [max(set(range(CLASSES)) - {y}, key=lambda k: z[i, k]) for i, y in enumerate(labels)]
    np.testing.assert_array_equal(
        adversarial.runner_up(jnp.asarray(z), jnp.asarray(labels)), expected
    )


def test_other_lengths_and_inputs_compile_nothing(compilations):
    attacks = (
        lambda x, length: adversarial.pgd(build(), x, LABELS, epsilon=length, targeted=True),
        lambda x, length: adversarial.carlini_wagner(build(), x, LABELS, constant=length, steps=2),
        lambda x, length: adversarial.deepfool(build(), x, LABELS, overshoot=length, steps=2),
    )
    for attack in attacks:
        attack(INPUTS, 0.1)
        compilations.clear()
        attack(INPUTS + 0.1, 0.2)
        assert compilations == []


@pytest.mark.parametrize(
    ("attack", "bad"),
    [
        (adversarial.fgsm, {"epsilon": 0.0}),
        (adversarial.pgd, {"epsilon": -1.0}),
        (adversarial.pgd, {"step_size": 0.0}),
        (adversarial.pgd, {"steps": 0}),
        (adversarial.carlini_wagner, {"constant": 0.0}),
        (adversarial.carlini_wagner, {"confidence": -0.1}),
        (adversarial.carlini_wagner, {"learning_rate": 0.0}),
        (adversarial.carlini_wagner, {"searches": 0}),
        (adversarial.carlini_wagner, {"steps": 1.5}),
        (adversarial.deepfool, {"steps": 0}),
        (adversarial.deepfool, {"overshoot": -0.1}),
    ],
)
def test_bad_arguments(attack, bad):
    (name,) = bad
    with pytest.raises(InvalidArgumentError, match=f"{name}="):
        attack(build(), INPUTS, LABELS, **bad)
