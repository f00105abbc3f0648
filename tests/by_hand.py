"""A linear classifier, its losses and its optimisers in numpy, in double precision.

What methods that fine-tune are compared with: which samples make up a batch is taken from what the
method hands to `descent.descend`, everything else is computed here.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

from ignpx import Classifier, Samples, descent

CLASSES, SHAPE = 4, (2, 3, 1)


def linear(params, x):
    return x.reshape(len(x), -1) @ params["w"] + params["b"]


def halved(images):
    return images / 2


def initialise(key):
    keys = jax.random.split(key)
    params = {
        "w": jax.random.normal(keys[0], (6, CLASSES)),
        "b": jax.random.normal(keys[1], (CLASSES,)),
    }
    return params, {}


def model(seed=0):
    return Classifier.from_function(
        linear,
        initialise(jax.random.key(seed))[0],
        input_shape=SHAPE,
        num_classes=CLASSES,
        preprocess=halved,
        initialise=initialise,
    )


def samples(count, classes=range(CLASSES), seed=0):
    rng = np.random.default_rng(seed)
    images = rng.normal(size=(count, *SHAPE)).astype(np.float32)
    return Samples(images, rng.choice(list(classes), count).astype(np.int32))


def features(images):
    return np.asarray(images, float).reshape(len(images), -1) / 2


def doubles(params):
    return {name: np.asarray(params[name], float) for name in ("w", "b")}


def logits(theta, images):
    return features(images) @ theta["w"] + theta["b"]


def softmax(z):
    exponentials = np.exp(z - z.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def gradient(images, errors):
    """From the gradient with respect to the logits to that with respect to the parameters."""
    return {"w": features(images).T @ errors, "b": errors.sum(0)}


def cross_entropy(theta, batch):
    """Mean over the batch, and its gradient with respect to the logits."""
    p, one_hot = softmax(logits(theta, batch.images)), np.eye(CLASSES)[np.asarray(batch.labels)]
    return -np.log((p * one_hot).sum(1)).mean(), (p - one_hot) / len(p)


def divergence(theta, images, teacher_logits, temperature):
    """KL(teacher || student), mean over the batch, and its gradient with respect to the logits."""
    student = softmax(logits(theta, images) / temperature)
    teacher = softmax(teacher_logits / temperature)
    value = (teacher * np.log(teacher / student)).sum(1).mean()
    return value, (student - teacher) / temperature / len(student)


class Sgd:
    def __init__(self, rate, momentum=0.0, decay=0.0):
        self.rate, self.momentum, self.decay, self.velocity = rate, momentum, decay, None

    def update(self, theta, slope):
        slope = {n: slope[n] + self.decay * theta[n] for n in theta}
        old = self.velocity or {n: 0.0 for n in theta}
        self.velocity = {n: self.momentum * old[n] + slope[n] for n in theta}
        return {n: -self.rate * self.velocity[n] for n in theta}


class Adam:
    """Divides a gradient g by its own size, and with it what single precision has rounded off.

    Off a gradient whose terms are of size one that is d, some 4e-7, and a step changes by up to
    2 d / |g| of the rate: in ten steps at a rate of 0.005, by 1e-6 even where |g| is but 0.04. So
    comparisons with it have rates no higher than that.
    """

    def __init__(self, rate, decay=0.0):
        self.rate, self.decay, self.count, self.moments = rate, decay, 0, None

    def update(self, theta, slope):
        slope = {n: slope[n] + self.decay * theta[n] for n in theta}
        old = self.moments or {n: (0.0, 0.0) for n in theta}
        self.count += 1
        self.moments = {
            n: (0.9 * old[n][0] + 0.1 * slope[n], 0.999 * old[n][1] + 0.001 * slope[n] ** 2)
            for n in theta
        }
        mean, square = 1 - 0.9**self.count, 1 - 0.999**self.count
        return {
            n: -self.rate * (m / mean) / (np.sqrt(s / square) + 1e-8)
            for n, (m, s) in self.moments.items()
        }


def added(theta, update):
    return {n: theta[n] + update[n] for n in theta}


class Descended(NamedTuple):
    """One call of `descent.descend`."""

    data: Any
    indices: Any
    key: jax.Array
    extra_args: dict
    carry: Any  # after it

    def batches(self):
        for step in range(len(jax.tree.leaves(self.indices)[0])):
            yield jax.tree.map(
                lambda rows, part, step=step: jax.tree.map(
                    lambda array: np.asarray(array)[np.asarray(rows)[step]], part
                ),
                self.indices,
                self.data,
            )


def recorded(monkeypatch):
    """The calls of `descent.descend` from now on."""
    calls, descend = [], descent.descend

    def spy(loss, optimizer, carry, data, indices, key, extra_args=None, **named):
        after, losses = descend(loss, optimizer, carry, data, indices, key, extra_args, **named)
        calls.append(Descended(data, indices, key, extra_args or {}, after))
        return after, losses

    monkeypatch.setattr(descent, "descend", spy)
    return calls


def assert_equal(params, theta):
    for name in ("w", "b"):
        np.testing.assert_allclose(params[name], theta[name], rtol=1e-5, atol=2e-6)


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]
