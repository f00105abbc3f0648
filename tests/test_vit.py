"""ViT: against a forward pass in numpy, and as a classifier like the others."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from scipy.special import erf

from closeness import assert_squares_close
from ignpx import Classifier, InvalidArgumentError, importance, models, targets
from ignpx.adapters import split_nnx
from ignpx.experiments import checkpoint
from ignpx.models.vit import Block, vit_tiny

SHAPE = (8, 12, 3)


def small(**options):
    model = vit_tiny(SHAPE, 5, width=0.1, rngs=nnx.Rngs(0), **options)
    return Classifier.from_nnx(model, input_shape=SHAPE, num_classes=5, targets=model.targets)


def randomised(params):
    """Like params; also what starts at 0 or 1 has values that show in the result."""
    leaves, structure = jax.tree.flatten(params)
    rng = np.random.default_rng(0)
    leaves = [jnp.asarray(rng.normal(0, 0.3, leaf.shape), jnp.float32) for leaf in leaves]
    return jax.tree.unflatten(structure, leaves)


@pytest.mark.parametrize(
    ("shape", "num_classes", "options", "expected"),
    [
        ((224, 224, 3), 1000, {"patch": 16}, 5_717_416),  # timm's vit_tiny_patch16_224
        ((32, 32, 3), 10, {}, 5_362_762),
        ((224, 224, 3), 1000, {"patch": 16, "heads": 6}, 22_050_664),  # vit_small_patch16_224
    ],
)
def test_parameter_counts(shape, num_classes, options, expected):
    def build():
        return vit_tiny(shape, num_classes, width=1.0, rngs=nnx.Rngs(0), **options)

    assert targets.size(split_nnx(nnx.eval_shape(build))[1]) == expected


@pytest.mark.parametrize("width", [1 / 64, 0.1, 1 / 3])
def test_the_heads_divide_every_width(width):
    model = vit_tiny(SHAPE, 4, width=width, rngs=nnx.Rngs(0), depth=1)
    features = model.norm.num_features
    assert features % 3 == 0
    assert features == pytest.approx(192 * width, abs=1.5)
    assert jax.eval_shape(model, jnp.zeros((2, *SHAPE))).shape == (2, 4)


def dense(x, p):
    return x @ p["kernel"] + p["bias"]


def layer_norm(x, p):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]


def numpy_block(x, p, heads):
    """One image at a time, `(tokens, features)`, and one head at a time."""
    size = x.shape[-1] // heads
    query, key, value = np.split(dense(layer_norm(x, p["norm1"]), p["attn"]["qkv"]), 3, axis=-1)
    mixed = []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        weights = np.exp(query[:, part] @ key[:, part].T / np.sqrt(size))
        mixed.append(weights / weights.sum(-1, keepdims=True) @ value[:, part])
    x = x + dense(np.concatenate(mixed, axis=-1), p["attn"]["proj"])
    hidden = dense(layer_norm(x, p["norm2"]), p["mlp"]["fc1"])
    return x + dense(hidden * (1 + erf(hidden / np.sqrt(2))) / 2, p["mlp"]["fc2"])


def float64(params):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)


def test_a_block_equals_numpy():
    graphdef, params, state = split_nnx(Block(18, heads=3, rngs=nnx.Rngs(0)))
    params = randomised(params)
    # Small enough for the epsilon of the norms to show.
    x = np.random.default_rng(1).normal(0, 0.01, size=(2, 7, 18))
    actual = nnx.merge(graphdef, nnx.State(params), nnx.State(state))(jnp.asarray(x, jnp.float32))
    expected = np.stack([numpy_block(image, float64(params), 3) for image in x])
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)


def test_the_model_equals_numpy():
    classifier = small(depth=2)
    classifier = classifier.replace(params=randomised(classifier.params))
    p = float64(classifier.params)
    images = np.random.default_rng(1).normal(size=(2, *SHAPE))
    logits = []
    for image in images:
        patches = [
            dense(image[y : y + 4, x : x + 4].ravel(), {**p["patch_embed"], "kernel": kernel})
            for kernel in [p["patch_embed"]["kernel"].reshape(48, -1)]
            for y in range(0, 8, 4)
            for x in range(0, 12, 4)
        ]
        tokens = np.stack([p["cls_token"][0, 0], *patches]) + p["pos_embed"][0]
        for index in range(2):
            tokens = numpy_block(tokens, p["blocks"][index], 3)
        logits.append(dense(layer_norm(tokens[0], p["norm"]), p["head"]))
    actual = classifier.logits(jnp.asarray(images, jnp.float32))
    np.testing.assert_allclose(actual, logits, rtol=1e-5, atol=1e-5)


def test_both_modes_compute_the_same():
    classifier = small(depth=1)
    inputs = jax.random.normal(jax.random.key(0), (2, *SHAPE))
    logits, state = classifier.apply(classifier.params, classifier.state, inputs, train=True)
    np.testing.assert_array_equal(logits, classifier.logits(inputs))
    assert not jax.tree.leaves(state)


def modules(params):
    return {"/".join(path.split("/")[: 1 + path.startswith("blocks")]) for path in params}


def test_targets_are_those_of_the_paper():
    classifier = models.create("vit_tiny", input_shape=(8, 8, 3), num_classes=10, width=0.1)
    assert classifier.targets == ("blocks/10", "blocks/11", "norm", "head")
    chosen, _ = targets.partition(classifier.params, classifier.targets)
    assert modules(targets.paths(chosen)) == set(classifier.targets)
    # Twelve tensors a block, two each of norm and head.
    assert len(jax.tree.leaves(chosen)) == 2 * 12 + 4
    # The pattern of a block takes in none whose number begins with its own.
    second, _ = targets.partition(classifier.params, ("blocks/1",))
    assert modules(targets.paths(second)) == {"blocks/1"}


@pytest.mark.parametrize(
    ("depth", "blocks"),
    [(1, {"blocks/0"}), (2, {"blocks/0", "blocks/1"}), (3, {"blocks/1", "blocks/2"})],
)
def test_targets_of_another_depth_are_its_last_blocks(depth, blocks):
    classifier = small(depth=depth)
    chosen, _ = targets.partition(classifier.params, classifier.targets)
    assert modules(targets.paths(chosen)) == blocks | {"norm", "head"}


@pytest.mark.parametrize("shape", [(30, 32, 3), (32, 30, 3), (0, 32, 3), (32,)])
def test_an_input_that_the_patch_does_not_divide(shape):
    with pytest.raises(InvalidArgumentError, match=r"multiples of the patch, 4 pixels.*image_size"):
        models.create("vit_tiny", input_shape=shape, num_classes=10)


def test_sensitivity_equals_a_loop_over_samples():
    classifier = small(depth=2)
    inputs = jax.random.normal(jax.random.key(1), (5, *SHAPE))
    labels = jnp.arange(5)

    @jax.jit
    @jax.grad
    def gradient(params, x, label):
        logits = classifier.replace(params=params).logits(x[None])
        return optax.softmax_cross_entropy_with_integer_labels(logits, label[None])[0]

    each = [gradient(classifier.params, x, y) for x, y in zip(inputs, labels, strict=True)]
    expected = jax.tree.map(lambda *leaves: np.mean(np.square(leaves), axis=0), *map(float64, each))
    for microbatch in (2, None):
        actual = importance.sensitivity(classifier, inputs, labels, microbatch=microbatch)
        assert all(leaf.max() > 0 for leaf in jax.tree.leaves(expected))
        assert_squares_close(actual, expected)


def test_a_checkpoint_keeps_twelve_blocks_in_order(tmp_path):
    """By number, that is, and not as text, where block 10 comes before block 2."""
    classifier = models.create("vit_tiny", input_shape=(8, 8, 3), num_classes=4, width=0.02, seed=3)
    config = {"model": {"name": "vit_tiny", "width": 0.02}}
    checkpoint.save(tmp_path / "c", classifier, config)
    loaded, _ = checkpoint.load(tmp_path / "c")
    assert loaded.targets == classifier.targets
    assert jax.tree.structure(loaded) == jax.tree.structure(classifier)
    for a, b in zip(jax.tree.leaves(loaded), jax.tree.leaves(classifier), strict=True):
        np.testing.assert_array_equal(a, b)
