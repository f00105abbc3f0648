"""GKT: its losses against numpy, the whole of it against a plain loop."""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import ignpx
from ignpx import (
    Classifier,
    InvalidArgumentError,
    Request,
    UnlearningError,
    _xla,
)
from ignpx.adapters import NnxApply, split_nnx
from ignpx.descent import Descent
from ignpx.methods import gkt
from ignpx.models.generator import Generator

# The package has the function under the name of its module.
module = importlib.import_module("ignpx.methods.gkt")

CLASSES = 3


class Net(nnx.Module):
    """Convolution, batch norm, mean over halves of the image, linear."""

    def __init__(self, rngs):
        self.conv = nnx.Conv(1, 4, (3, 3), use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(4, momentum=0.9, rngs=rngs)
        self.head = nnx.Linear(8, CLASSES, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.conv(x)))
        return self.head(x.reshape(len(x), 2, -1, 4).mean(2).reshape(len(x), -1))


def widest(net):
    """In double precision where that is on."""
    nnx.update(net, jax.tree.map(lambda array: array.astype(float), nnx.state(net)))
    return net


def initialise(key):
    return split_nnx(widest(Net(nnx.Rngs(key))))[1:]


def teacher(seed=1, bias=(0.0, 0.0, 0.0)):
    classifier = Classifier.from_nnx(
        widest(Net(nnx.Rngs(seed))),
        input_shape=(8, 8, 1),
        num_classes=CLASSES,
        initialise=initialise,
    )
    params = dict(classifier.params)
    params["head"] = {"kernel": params["head"]["kernel"] * 3, "bias": jnp.asarray(bias)}
    return classifier.replace(params=params)


REQUEST = Request.classes([0], CLASSES)
BRIEF = {"iterations": 2, "student_steps": 2, "batch_size": 4, "latent": 8}
# One for several tests, which then compile once.
METHOD = gkt(**BRIEF, threshold=0.9)


def bits(tree):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def softmax(z):
    exponentials = np.exp(z - z.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def losses(*, temperature=1.0, attention=250.0, threshold=0.01, by_element=True):
    return module._Losses(temperature, attention, threshold, by_element)


@pytest.mark.parametrize("threshold", [0.01, 0.3])
def test_the_gate_closes_on_any_forget_class(threshold):
    logits = np.random.default_rng(0).normal(size=(200, 5)).astype(np.float32) * 3
    forget = np.array([True, False, False, True, False])
    expected = (softmax(logits)[:, [0, 3]] <= threshold).all(axis=1)
    assert 0 < expected.sum() < 200
    actual = losses(threshold=threshold).gate(jnp.asarray(logits), jnp.asarray(forget))
    np.testing.assert_array_equal(actual, expected.astype(np.float32))


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("by_element", [True, False])
def test_divergence(temperature, by_element):
    rng = np.random.default_rng(0)
    old, new = rng.normal(size=(2, 9, 5)) * 3
    weights = np.array([1, 0, 0, 1, 1, 0, 1, 1, 1.0])
    p, q = softmax(old / temperature), softmax(new / temperature)
    mean = (p * np.log(p / q)).sum(-1)[weights > 0].mean()
    ours = losses(temperature=temperature, by_element=by_element)
    actual = ours.divergence(*(jnp.asarray(a, jnp.float32) for a in (old, new, weights)))
    assert float(actual) == pytest.approx(mean, rel=1e-5)
    objective = ours.objective(actual, 5)
    assert float(objective) == pytest.approx(mean / 5 if by_element else mean, rel=1e-5)
    assert float(ours.divergence(old, new, np.zeros(9))) == 0


def attention_map(activations):
    flat = (np.maximum(activations, 0) ** 2).mean(-1).reshape(len(activations), -1)
    return flat / np.linalg.norm(flat, axis=-1, keepdims=True)


def test_attention_transfer():
    rng = np.random.default_rng(0)
    shapes = [(6, 4, 4, 3), (6, 2, 2, 7)]
    old, new = ([rng.normal(size=shape) for shape in shapes] for _ in range(2))
    weights = np.array([1, 1, 0, 1, 0, 0.0])
    expected = 0.0
    for a, b in zip(old, new, strict=True):
        np.testing.assert_allclose(module._attention(jnp.asarray(a)), attention_map(a), rtol=1e-5)
        expected += ((attention_map(a) - attention_map(b)) ** 2)[weights > 0].mean()
    actual = losses(attention=250.0).attention_transfer(old, new, jnp.asarray(weights))
    assert float(actual) == pytest.approx(250 * expected, rel=1e-5)


def test_attention_of_dead_activations_has_a_gradient():
    gradient = jax.grad(lambda a: module._attention(a).sum())(-jnp.ones((2, 3, 3, 4)))
    np.testing.assert_array_equal(gradient, 0)


def plain_loop(classifier, request, key, *, iterations, generator_steps, student_steps):
    """The student, and the divergences, in plain Python; batches of 4 latent vectors of 8."""
    student_key, key = jax.random.split(key)
    generator_key, latent_key = jax.random.split(key)
    fresh = widest(Generator((8, 8, 1), latent=8, rngs=nnx.Rngs(generator_key)))
    graph, *generator = split_nnx(fresh)
    student = initialise(student_key)
    forget, threshold = np.flatnonzero(request.forget), 0.6

    def optimizer(steps):
        rate = optax.cosine_decay_schedule(2e-3, iterations * steps)
        return optax.chain(optax.clip_by_global_norm(5.0), optax.adam(rate))

    @jax.jit
    def images(params, state, latents):
        return NnxApply(graph)(params, state, latents, train=True)

    def kl(old, new, open_gate):
        p, q = jax.nn.softmax(old), jax.nn.softmax(new)
        return jnp.sum(jnp.where(open_gate, jnp.sum(p * jnp.log(p / q), -1), 0)) / open_gate.sum()

    def opened(old):
        return jnp.all(jax.nn.softmax(old)[:, forget] <= threshold, axis=-1)

    @functools.partial(jax.jit, static_argnames="train")
    def maps(params, state, inputs, train):
        seen = classifier.replace(params=params, state=state).observed(inputs, train=train)
        flat = jnp.mean(jnp.maximum(seen[2][0], 0) ** 2, -1).reshape(len(inputs), -1)
        return seen[0], seen[1], flat / jnp.linalg.norm(flat, axis=-1, keepdims=True)

    @jax.jit
    @jax.grad
    def generator_gradient(params, state, latents, student):
        made, _ = images(params, state, latents)
        old = classifier.logits(made)
        new = classifier.apply(*student, made, train=True)[0]
        return -kl(old, new, opened(old)) / CLASSES

    @jax.jit
    @jax.value_and_grad
    def student_gradient(params, state, made):
        old, _, old_maps = maps(classifier.params, classifier.state, made, train=False)
        new, _, new_maps = maps(params, state, made, train=True)
        gate = opened(old)
        distance = jnp.sum(gate * jnp.mean((old_maps - new_maps) ** 2, -1)) / gate.sum()
        return kl(old, new, gate) / CLASSES + 50.0 * distance

    for_generator, for_student = optimizer(generator_steps), optimizer(student_steps)
    generator_update, student_update = jax.jit(for_generator.update), jax.jit(for_student.update)
    generator_memory = for_generator.init(generator[0])
    student_memory = for_student.init(student[0])
    differences, passed = [], []
    for iteration in range(iterations):
        latents = jax.random.normal(jax.random.fold_in(latent_key, iteration), (4, 8))
        for _ in range(generator_steps):
            gradient = generator_gradient(*generator, latents, student)
            _, state = images(*generator, latents)
            update, generator_memory = generator_update(gradient, generator_memory)
            generator = [jax.tree.map(jnp.add, generator[0], update), state]
        made, _ = images(*generator, latents)
        old = classifier.logits(made)
        passed.append(float(opened(old).mean()))
        for _ in range(student_steps):
            new, state, _ = maps(*student, made, train=True)
            difference = float(kl(old, new, opened(old)))
            _, gradient = student_gradient(*student, made)
            update, student_memory = student_update(gradient, student_memory)
            student = [jax.tree.map(jnp.add, student[0], update), state]
        differences.append(difference)
    return student, differences, passed


@jax.enable_x64(True)
def test_equals_a_plain_loop(monkeypatch):
    """In double precision: Adam makes whole steps of gradients that are only rounding.

    The biases before batch norms have such gradients. In double precision they are some 1e-17, far
    below Adam's epsilon of 1e-8.
    """
    monkeypatch.setattr(module, "Generator", lambda *a, **named: widest(Generator(*a, **named)))
    steps = {"iterations": 3, "generator_steps": 2, "student_steps": 3}
    classifier, key = teacher(), jax.random.key(5)
    method = gkt(**steps, batch_size=4, latent=8, learning_rate=2e-3, attention=50.0, threshold=0.6)
    learnt, info = method.unlearn(classifier, REQUEST, key)
    (params, state), differences, passed = plain_loop(classifier, REQUEST, key, **steps)
    for actual, expected in ((learnt.params, params), (learnt.state, state)):
        for a, e in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
            assert a.dtype == e.dtype == np.float64
            np.testing.assert_allclose(a, e, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(info.divergence, differences, rtol=1e-9)
    np.testing.assert_array_equal(info.passed, passed)
    assert 0 < np.mean(passed) < 1


def test_the_divergence_falls_on_an_easy_teacher():
    method = gkt(
        iterations=30,
        student_steps=5,
        batch_size=16,
        latent=8,
        learning_rate=1e-2,
        attention=1.0,
        threshold=0.5,
    )
    classifier = teacher()
    learnt, info = ignpx.unlearn(method, classifier, REQUEST, jax.random.key(0))
    divergence = np.asarray(info.divergence)
    assert divergence.shape == info.passed.shape == (30,)
    assert divergence[-5:].mean() < 0.2 * divergence[0]
    assert bits(learnt.state) != bits(classifier.state)


@pytest.fixture
def loop_seen(monkeypatch):
    """The carries before and after the loop over pseudo-batches."""
    seen = {}
    loop = _xla.repeat

    def spy(step, operands, carry, length):
        result = loop(step, operands, carry, length)
        if all(isinstance(part, Descent) for part in carry):
            seen["before"], seen["after"] = carry, result[0]
        return result

    monkeypatch.setattr(_xla, "repeat", spy)
    return seen


def test_a_pseudo_batch_of_which_nothing_passes_changes_nothing(loop_seen):
    key = jax.random.key(0)
    # A teacher that takes everything for the class to be forgotten.
    classifier = teacher(bias=(50.0, 0.0, 0.0))
    learnt, info = METHOD.unlearn(classifier, REQUEST, key)
    np.testing.assert_array_equal(info.passed, 0)
    assert len(bits(loop_seen["after"])) > 40
    assert bits(loop_seen["after"]) == bits(loop_seen["before"])
    assert bits(learnt) == bits(classifier.fresh(jax.random.split(key)[0]))
    with pytest.raises(UnlearningError, match="raise threshold"):
        info.check(REQUEST)
    with pytest.raises(UnlearningError, match="raise threshold"):
        ignpx.unlearn(METHOD, classifier, REQUEST, key)


def test_with_an_open_gate_everything_moves(loop_seen):
    METHOD.unlearn(teacher(), REQUEST, jax.random.key(0))
    for before, after in zip(loop_seen["before"], loop_seen["after"], strict=True):
        assert bits(before.params) != bits(after.params)
        assert bits(before.state) != bits(after.state)


def test_the_student_starts_from_nothing_of_the_teacher(loop_seen):
    key, starts = jax.random.key(3), []
    for classifier in (teacher(1), teacher(2)):
        METHOD.unlearn(classifier, REQUEST, key)
        generator, student = loop_seen["before"]
        starts.append(bits((generator, student)))
        assert bits((student.params, student.state)) == bits(initialise(jax.random.split(key)[0]))
    assert starts[0] == starts[1]


def generated(shape):
    model = Generator(shape, latent=6, rngs=nnx.Rngs(0))
    model.train()
    return np.asarray(model(jax.random.normal(jax.random.key(0), (32, 6))))


@pytest.mark.parametrize("shape", [(8, 4, 1), (4, 8, 3)])
def test_generated_inputs_have_the_mean_and_spread_of_preprocessed_images(shape):
    inputs = generated(shape)
    assert inputs.shape == (32, *shape)
    np.testing.assert_allclose(inputs.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(inputs.std((0, 1, 2)), 1, rtol=1e-3)
    # Nothing squashes them.
    assert np.max(np.abs(inputs)) > 2


@pytest.mark.parametrize(
    ("shape", "whole"), [((7, 5, 3), (8, 8, 3)), ((1, 2, 1), (4, 4, 1)), ((5, 12, 1), (8, 12, 1))]
)
def test_sizes_that_four_does_not_divide_are_cropped(shape, whole):
    inputs = generated(shape)
    assert inputs.shape == (32, *shape)
    np.testing.assert_array_equal(inputs, generated(whole)[:, : shape[0], : shape[1]])


def test_a_model_of_vectors(mlp):
    with pytest.raises(InvalidArgumentError, match=r"\(6,\).*images"):
        ignpx.unlearn(gkt(**BRIEF), mlp, Request.classes([0], 4), jax.random.key(0))


def test_a_model_that_does_not_know_how_it_is_initialised():
    unknown = teacher().replace(initialise=None)
    with pytest.raises(InvalidArgumentError, match="initialise"):
        ignpx.unlearn(gkt(**BRIEF), unknown, REQUEST, jax.random.key(0))


def test_info_judges_itself():
    some = np.array([0.4, 0.2])
    with pytest.raises(UnlearningError, match="diverged"):
        module.Transferred(np.array([0.4, np.nan]), some).check(REQUEST)
    (doubt,) = module.Transferred(some, np.array([0.9, 0.05])).doubts(REQUEST)
    assert "only 5.0%" in doubt
    module.Transferred(some, np.array([0.0, 0.5])).check(REQUEST)
    assert module.Transferred(some, some).summary() == {
        "last_divergence": pytest.approx(0.2),
        "mean_passed": pytest.approx(0.3),
    }


@pytest.mark.parametrize(
    "bad",
    [
        {"iterations": 0},
        {"generator_steps": 0},
        {"student_steps": 1.5},
        {"batch_size": -1},
        {"latent": 0},
        {"learning_rate": 0.0},
        {"temperature": -1.0},
        {"threshold": 0.0},
        {"attention": -1.0},
        {"divergence": "batches"},
    ],
)
def test_bad_arguments(bad):
    (name,) = bad
    with pytest.raises(InvalidArgumentError, match=f"{name}="):
        gkt(**bad)
