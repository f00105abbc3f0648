"""The unlearning degree of SPD-GAN, and its generator."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ignpx import Classifier, InvalidArgumentError, Samples
from ignpx.adapters import NnxApply, split_nnx
from ignpx.audit import unlearning_degree
from ignpx.audit.unlearning_degree import Parting, objective
from ignpx.data import Normalise
from ignpx.models.generator import Perturbation, _into_channels, _into_pixels

SHAPE, CLASSES = (6, 6, 1), 3
SETTINGS = {"epochs": 40, "learning_rate": 0.01, "batch_size": 16, "width": 4, "eta": 0.3}


def by_rows(params, x):
    """Logits are the mean brightness of three pairs of rows, of the left or of the right half."""
    pairs = x.reshape(len(x), 3, 2, 2, 3).mean((2, 4))
    return 10 * pairs @ params


def model(side, **fields):
    return Classifier.from_function(
        by_rows, jnp.eye(2)[side], input_shape=SHAPE, num_classes=CLASSES, **fields
    )


def samples(count=30):
    """Images that both halves tell the class of."""
    labels = np.arange(count) % CLASSES
    images = 0.2 * np.random.default_rng(0).normal(size=(count, *SHAPE))
    for image, label in zip(images, labels, strict=True):
        image[2 * label : 2 * label + 2] += 0.5
    return Samples(np.float32(images), np.int32(labels))


def test_models_that_look_elsewhere_are_parted():
    found = unlearning_degree(model(0), model(1), samples(), jax.random.key(0), **SETTINGS)
    assert found.fitted.original > 0.9
    assert found.fitted.unlearned < 0.5
    assert found.fitted.degree == found.fitted.original - found.fitted.unlearned
    assert found.held_out.degree > 0.3
    parted = found.held_out.only_original - found.held_out.only_unlearned
    assert found.held_out.degree == pytest.approx(parted / found.held_out.images)
    assert found.losses[-1] < found.losses[0]
    # 24 of 30 images are fitted, in one batch of 16 an epoch.
    assert found.losses.shape == (40,)
    assert found.fitted.original * 24 == pytest.approx(round(found.fitted.original * 24))
    assert found.held_out.original * 6 == pytest.approx(round(found.held_out.original * 6))


def test_a_model_is_not_parted_from_itself():
    found = unlearning_degree(model(0), model(0), samples(), jax.random.key(0), **SETTINGS)
    assert found.fitted.degree == found.held_out.degree == 0
    assert found.fitted.original == 1


def test_the_amplitude_bounds_the_change():
    settings = {**SETTINGS, "amplitude": 1e-3}
    found = unlearning_degree(model(0), model(1), samples(), jax.random.key(0), **settings)
    assert 0 < found.fitted.size <= 1e-3
    assert found.fitted.degree == 0


def test_a_second_call_compiles_nothing_and_the_key_settles_all(compilations):
    settings = {**SETTINGS, "epochs": 2}
    first = unlearning_degree(model(0), model(1), samples(), jax.random.key(1), **settings)
    compilations.clear()
    again = unlearning_degree(model(0), model(1), samples(), jax.random.key(1), **settings)
    assert compilations == []
    np.testing.assert_array_equal(first.losses, again.losses)
    assert first.fitted == again.fitted


def test_the_objective_is_equation_11_with_a_cap():
    rng = np.random.default_rng(0)
    original, unlearned = rng.normal(size=(2, 40, 5)) * 3
    labels = rng.integers(0, 5, 40)

    def losses(z):
        return np.log(np.exp(z).sum(1)) - z[np.arange(40), labels]

    lost = losses(unlearned)
    assert np.any(lost > np.log(5))
    assert np.any(lost < np.log(5))
    expected = np.mean(losses(original) - 0.03 * np.minimum(lost, np.log(5)))
    arguments = (jnp.float32(original), jnp.float32(unlearned), labels, 0.03)
    assert float(objective(*arguments)) == pytest.approx(expected, rel=1e-5)
    # Beyond the cap there is nothing to gain.
    slope = np.asarray(jax.grad(objective, argnums=1)(*arguments))
    np.testing.assert_array_equal(np.any(slope != 0, axis=1), lost < np.log(5))


def test_parting_is_of_shares():
    assert Parting(0.9, 0.4, 0.1, 10, 5, 0).degree == pytest.approx(0.5)


def test_the_generator_keeps_any_shape_and_its_bound():
    shape = (7, 9, 3)
    graphdef, params, state = split_nnx(Perturbation(shape, width=2, rngs=nnx.Rngs(0)))
    apply = jax.jit(NnxApply(graphdef), static_argnames="train")
    inputs = 50 * jax.random.normal(jax.random.key(0), (4, *shape))
    changes, after = apply(params, state, inputs, train=True)
    assert changes.shape == inputs.shape
    assert 0 < float(jnp.abs(changes).max()) <= 1
    # Each image by itself in evaluation mode.
    every, _ = apply(params, after, inputs, train=False)
    others, _ = apply(params, after, inputs.at[1:].set(0.0), train=False)
    np.testing.assert_allclose(every[0], others[0], atol=1e-6)


def test_rearranging_pixels():
    x = np.random.default_rng(0).normal(size=(2, 4, 6, 3))
    apart = _into_channels(x)
    assert apart.shape == (2, 2, 3, 12)
    np.testing.assert_array_equal(apart[:, 1, 2, 3:6], x[:, 2, 5])
    np.testing.assert_array_equal(_into_pixels(apart), x)


@pytest.mark.parametrize(
    "bad",
    [
        {"eta": 0.0},
        {"amplitude": -1.0},
        {"epochs": 0},
        {"learning_rate": 0.0},
        {"batch_size": 1.5},
        {"width": 0},
        {"held_out_share": 1.0},
    ],
)
def test_bad_arguments(bad):
    (name,) = bad
    with pytest.raises(InvalidArgumentError, match=f"^{name}="):
        unlearning_degree(model(0), model(1), samples(), jax.random.key(0), **bad)


def test_models_or_samples_that_do_not_fit(mlp):
    other = model(1, preprocess=Normalise((0.5,), (0.5,)))
    with pytest.raises(InvalidArgumentError, match=r"^unlearned\.preprocess="):
        unlearning_degree(model(0), other, samples(), jax.random.key(0))
    with pytest.raises(InvalidArgumentError, match=r"^unlearned\.input_shape="):
        unlearning_degree(model(0), mlp, samples(), jax.random.key(0))
    with pytest.raises(InvalidArgumentError, match="takes images"):
        unlearning_degree(mlp, mlp, samples(), jax.random.key(0))
    with pytest.raises(InvalidArgumentError, match=r"^samples=1"):
        unlearning_degree(model(0), model(1), samples(1), jax.random.key(0))
