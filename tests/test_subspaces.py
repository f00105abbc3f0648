"""Subspaces against loops over patches and singular value decompositions of the wide matrix."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

from ignpx import Classifier, descent, targets
from ignpx.gradients import subspaces

CLASSES = 3
SHAPE = (7, 6, 2)


class Net(nnx.Module):
    """A strided and a dilated convolution, attention over their positions, a dense layer."""

    def __init__(self, rngs):
        self.strided = nnx.Conv(2, 5, (3, 3), strides=2, padding="SAME", rngs=rngs)
        self.norm = nnx.BatchNorm(5, rngs=rngs)
        self.dilated = nnx.Conv(
            5, 8, (2, 3), kernel_dilation=(2, 1), padding=((1, 1), (0, 2)), rngs=rngs
        )
        self.attention = nnx.MultiHeadAttention(2, 8, decode=False, rngs=rngs)
        self.grouped = nnx.Conv(8, 8, (1,), feature_group_count=2, rngs=rngs)
        self.head = nnx.Linear(8, CLASSES, rngs=rngs)

    def __call__(self, x):
        tokens = self.tokens(x)
        return self.head(nnx.relu(self.grouped(self.attention(tokens))).mean(1))

    def tokens(self, x):
        x = self.dilated(nnx.relu(self.norm(self.strided(x))))
        return x.reshape(len(x), -1, 8)


class LinenNet(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.relu(linen.Conv(4, (3, 3), strides=2, padding="VALID", name="conv")(x))
        x = linen.MultiHeadDotProductAttention(2, name="attention")(x.reshape(len(x), -1, 4))
        return linen.Dense(CLASSES, name="head")(x.mean(1))


def transposed(params, x):
    """Kernels as PyTorch has them, and one that is used twice."""
    hidden = jnp.tanh(x.reshape(len(x), -1) @ params["first"].T)
    hidden = jnp.tanh(jnp.einsum("oi,bi->bo", params["twice"], hidden))
    hidden = jnp.tanh(hidden @ params["twice"])
    return hidden @ params["last"].reshape(4, CLASSES)


def build(kind):
    fields = {"input_shape": SHAPE, "num_classes": CLASSES}
    if kind == "nnx":
        classifier = Classifier.from_nnx(Net(nnx.Rngs(0)), **fields)
        norm = {"mean": jnp.linspace(-1, 1, 5), "var": jnp.linspace(0.5, 3, 5)}
        return classifier.replace(state={**classifier.state, "norm": norm})
    if kind == "linen":
        module = LinenNet()
        return Classifier.from_linen(
            module, module.init(jax.random.key(0), jnp.zeros((1, *SHAPE))), **fields
        )
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = {"first": (4, 84), "twice": (4, 4), "last": (2, 2, CLASSES)}
    params = {
        name: jax.random.normal(key, shape) / 3
        for key, (name, shape) in zip(keys, shapes.items(), strict=True)
    }
    return Classifier.from_function(transposed, params, **fields)


def inputs(count, seed=0):
    return jax.random.normal(jax.random.key(seed), (count, *SHAPE))


def patches(images, window, *, stride=(1, 1), dilation=(1, 1), padding=((0, 0), (0, 0))):
    """One row for each patch of each image, in the order of a kernel `(h, w, channels)`."""
    images = np.pad(np.asarray(images), ((0, 0), *padding, (0, 0)))
    reach = [(w - 1) * d + 1 for w, d in zip(window, dilation, strict=True)]
    tops = range(0, images.shape[1] - reach[0] + 1, stride[0])
    lefts = range(0, images.shape[2] - reach[1] + 1, stride[1])
    rows = []
    for image in images:
        of_image = []
        for top, left in itertools.product(tops, lefts):
            places = itertools.product(range(window[0]), range(window[1]))
            of_image.append(
                np.concatenate(
                    [image[top + i * dilation[0], left + j * dilation[1]] for i, j in places]
                )
            )
        rows.append(of_image)
    return np.array(rows)


def rows_by_hand(kind, classifier, x):
    """What the layers are applied to, `(N, positions, d)` each."""
    params = jax.tree.map(np.asarray, classifier.params)
    if kind == "function":
        first = np.asarray(x).reshape(len(x), -1)
        hidden = np.tanh(first @ params["first"].T)
        hidden = np.tanh(np.tanh(hidden @ params["twice"].T) @ params["twice"])
        return {"first": first[:, None], "last": hidden[:, None]}
    if kind == "linen":
        kernel, bias = params["conv"]["kernel"], params["conv"]["bias"]
        rows = {"conv/kernel": patches(x, (3, 3), stride=(2, 2))}
        tokens = np.maximum(rows["conv/kernel"] @ kernel.reshape(-1, 4) + bias, 0)
    else:
        # SAME at stride 2: of 7 rows four windows, one row short on each side; of 6 columns three.
        model = Net(nnx.Rngs(0))
        model.eval()
        model.norm.mean[...], model.norm.var[...] = classifier.state["norm"].values()
        hidden = nnx.relu(model.norm(model.strided(x)))
        rows = {
            "strided/kernel": patches(x, (3, 3), stride=(2, 2), padding=((1, 1), (0, 1))),
            "dilated/kernel": patches(hidden, (2, 3), dilation=(2, 1), padding=((1, 1), (0, 2))),
        }
        tokens = np.asarray(model.tokens(x))
    attention = params["attention"]
    rows |= {f"attention/{name}/kernel": tokens for name in ("query", "key", "value")}

    def heads(name):
        part = attention[name]
        return np.einsum("ntd,dhf->nthf", tokens, part["kernel"]) + part["bias"]

    scores = np.einsum("nqhf,nkhf->nhqk", heads("query"), heads("key")) / np.sqrt(
        heads("query").shape[-1]
    )
    scores = np.exp(scores - scores.max(-1, keepdims=True))
    scores /= scores.sum(-1, keepdims=True)
    mixed = np.einsum("nhqk,nkhf->nqhf", scores, heads("value"))
    mixed = mixed.reshape(*mixed.shape[:2], -1)
    rows["attention/out/kernel"] = mixed
    out = mixed @ attention["out"]["kernel"].reshape(mixed.shape[-1], -1)
    out = out + attention["out"]["bias"]
    if kind == "nnx":
        kernel, bias = params["grouped"]["kernel"], params["grouped"]["bias"]
        halves = [out[..., 4 * i : 4 * i + 4] @ kernel[0, :, 4 * i : 4 * i + 4] for i in (0, 1)]
        out = np.maximum(np.concatenate(halves, axis=-1) + bias, 0)
    return rows | {"head/kernel": out.mean(1)[:, None]}


@pytest.mark.parametrize("kind", ["nnx", "linen", "function"])
def test_gram_matrices_equal_a_loop_over_patches(kind):
    classifier, x = build(kind), inputs(5)
    weights = jnp.array([1.0, 0.5, 0.0, 2.0, 1.0])
    actual = subspaces.gram_matrices(classifier, x, weights, microbatch=2)
    expected = rows_by_hand(kind, classifier, x)
    # The grouped convolution, the kernel used twice, biases and norms are no layers.
    assert set(actual) == set(expected)
    for path, rows in expected.items():
        gram = np.einsum("n,npi,npj->ij", weights, rows, rows)
        np.testing.assert_allclose(actual[path], gram, rtol=2e-5, atol=2e-5 * np.max(gram))


@pytest.mark.parametrize("kind", ["nnx", "linen", "function"])
def test_mean_inputs_and_coordinates_are_those_of_the_patches(kind):
    classifier, x = build(kind), inputs(5)
    weights = np.random.default_rng(0).uniform(size=(3, 5)).astype(np.float32)
    means = {path: rows.mean(1) for path, rows in rows_by_hand(kind, classifier, x).items()}
    found = subspaces.mean_inputs(classifier, x, jnp.asarray(weights), microbatch=2)
    bases = {
        path: np.random.default_rng(1).normal(size=(rows.shape[1], 2)).astype(np.float32)
        for path, rows in means.items()
    }
    along = subspaces.coordinates(classifier, x, bases, microbatch=2)
    assert set(found) == set(along) == set(means)
    for path, rows in means.items():
        # Sums of at most 84 products, through two layers of float32.
        close = {"rtol": 2e-5, "atol": 2e-5 * np.abs(rows).sum(1).max()}
        np.testing.assert_allclose(found[path], weights @ rows, **close)
        np.testing.assert_allclose(along[path], rows @ bases[path], **close)


@pytest.mark.parametrize("kind", ["nnx", "linen", "function"])
def test_a_kernel_is_the_matrix_that_multiplies_the_inputs_of_its_layer(kind):
    classifier = build(kind)
    leaves = dict(
        zip(
            targets.paths(classifier.params),
            jax.tree.leaves(classifier.params),
            strict=True,
        )
    )
    for layer in subspaces.layers(classifier):
        kernel = leaves[layer.path]
        expected = kernel.T if layer.path == "first" else kernel.reshape(layer.inputs, -1)
        np.testing.assert_array_equal(layer.matrix(kernel), expected)
        np.testing.assert_array_equal(layer.kernel(layer.matrix(kernel)), kernel)
        assert layer.outputs == expected.shape[1]


def test_layers_are_the_same_objects_for_the_same_architecture():
    classifier = build("nnx")
    other = classifier.replace(params=jax.tree.map(jnp.ones_like, classifier.params))
    assert subspaces.layers(classifier) == subspaces.layers(other)


def merged_by_svd(matrices, energy):
    """GPM with the wide matrices."""
    basis = np.zeros((len(matrices[0]), 0))
    for matrix in matrices:
        total = np.sum(matrix**2)
        residual = matrix - basis @ (basis.T @ matrix)
        vectors, values, _ = np.linalg.svd(residual, full_matrices=False)
        share = 1 - np.sum(residual**2) / total
        for vector, value in zip(vectors.T, values, strict=True):
            if share >= energy:
                break
            basis = np.column_stack([basis, vector])
            share += value**2 / total
    return basis


@pytest.mark.parametrize("energy", [0.3, 0.8, 0.97])
def test_merged_bases_are_those_of_gradient_projection_memory(energy):
    rng = np.random.default_rng(0)
    scale = np.geomspace(1, 0.05, 12)[:, None]
    matrices = [rng.normal(size=(12, 12)) @ (scale * rng.normal(size=(12, 30))) for _ in range(3)]
    expected = merged_by_svd(matrices, energy)
    count = expected.shape[1]
    # In single precision neighbouring directions mix, by rounding over the gap between them.
    for double, tolerance in ((True, 1e-5), (False, 2e-4)):
        basis = None
        with jax.enable_x64(double):
            for matrix in matrices:
                basis = subspaces.basis(jnp.asarray(matrix @ matrix.T), energy, basis)
            left = subspaces.complement(basis)
        assert int(np.any(np.asarray(basis) != 0, axis=0).sum()) == count
        assert basis.shape == (12, 12)
        np.testing.assert_array_equal(basis[:, count:], 0)
        kept = np.asarray(basis)[:, :count]
        np.testing.assert_allclose(kept.T @ kept, np.eye(count), atol=2e-6)
        np.testing.assert_allclose(kept @ kept.T, expected @ expected.T, atol=tolerance)
        np.testing.assert_allclose(left, np.eye(12) - expected @ expected.T, atol=tolerance)


def test_a_rank_deficient_layer_has_no_directions_of_rounding():
    rng = np.random.default_rng(0)
    wide = rng.normal(size=(40, 6)) @ rng.normal(size=(6, 200)) * 1e3
    gram = jnp.asarray(wide @ wide.T, jnp.float32)
    basis = subspaces.basis(gram, 1.0)
    assert int(subspaces.rank(basis)) == 6
    # The same inputs again, or none at all, add nothing.
    assert int(subspaces.rank(subspaces.basis(gram, 1.0, basis))) == 6
    assert int(subspaces.rank(subspaces.basis(jnp.zeros((40, 40)), 1.0, basis))) == 6
    assert int(subspaces.rank(subspaces.basis(jnp.zeros((40, 40)), 0.97))) == 0


def test_a_wide_layer_keeps_the_energy_of_its_long_tail():
    # One large direction and a tail of 1/k, as behind rectified activations.
    size = 1024
    rng = np.random.default_rng(0)
    vectors, _ = np.linalg.qr(rng.normal(size=(size, size)))
    tail = 1 / np.arange(1, size)
    values = np.concatenate([[0.6], 0.4 * tail / tail.sum()])
    gram = (vectors * values) @ vectors.T
    basis = np.asarray(subspaces.basis(jnp.asarray(gram, jnp.float32), 0.995), float)
    held = np.trace(basis.T @ gram @ basis) / np.trace(gram)
    assert held == pytest.approx(0.995, abs=2e-4)


def test_the_rank_is_at_most_the_dimension():
    rng = np.random.default_rng(0)
    basis = None
    for _ in range(4):
        wide = rng.normal(size=(5, 50))
        basis = subspaces.basis(jnp.asarray(wide @ wide.T, jnp.float32), 0.97, basis)
    assert int(subspaces.rank(basis)) == 5
    np.testing.assert_allclose(subspaces.complement(basis), np.zeros((5, 5)), atol=1e-6)


def test_a_random_basis_has_the_same_rank():
    rng = np.random.default_rng(0)
    wide = rng.normal(size=(9, 4))
    basis = subspaces.basis(jnp.asarray(wide @ wide.T, jnp.float32), 1.0)
    random = subspaces.random_basis(jax.random.key(0), basis)
    np.testing.assert_allclose(random.T @ random, np.diag([1.0] * 4 + [0] * 5), atol=1e-6)
    assert np.linalg.norm(random @ random.T - basis @ basis.T) > 0.5


def squared(params, state, batch, key, extra_args):
    return jnp.mean(extra_args["classifier"].replace(params=params).logits(batch) ** 2), state


@pytest.mark.parametrize("kind", ["nnx", "linen", "function"])
def test_nothing_of_the_updates_is_left_in_the_subspace(kind):
    classifier = build(kind)
    grams = subspaces.gram_matrices(classifier, inputs(2, seed=1))
    bases = {path: subspaces.basis(gram, 0.8) for path, gram in grams.items()}
    found = subspaces.layers(classifier)
    # Each of them would bring back what is only projected out of the gradient.
    optimizer = optax.chain(
        optax.add_decayed_weights(0.1),
        optax.adam(0.05),
        optax.trace(0.9),
        subspaces.projected(found),
    )
    extra_args = {
        "projections": {path: subspaces.complement(basis) for path, basis in bases.items()},
        "classifier": classifier,
    }
    tuned, _ = descent.tune(
        squared,
        optimizer,
        classifier,
        inputs(6, seed=2),
        jnp.arange(6).reshape(3, 2),
        jax.random.key(0),
        extra_args,
    )
    moved = jax.tree.map(lambda a, b: np.asarray(a - b), tuned.params, classifier.params)
    names = targets.paths(moved)
    layers = {layer.path: layer for layer in found}
    for name, update in zip(names, jax.tree.leaves(moved), strict=True):
        if name not in layers:
            assert not update.any()
            continue
        basis, matrix = bases[name], layers[name].matrix(update)
        assert 0 < subspaces.rank(basis) < len(basis)
        length = np.linalg.norm(matrix)
        assert length > 1e-3
        assert np.linalg.norm(basis.T @ matrix) < 1e-5 * length


def test_with_all_energy_the_first_layer_does_what_it_did():
    classifier, kept = build("linen"), inputs(1, seed=1)
    gram = subspaces.gram_matrices(classifier, kept)["conv/kernel"]
    layer = next(one for one in subspaces.layers(classifier) if one.path == "conv/kernel")
    update = jax.random.normal(jax.random.key(0), classifier.params["conv"]["kernel"].shape)
    transformation = subspaces.projected((layer,))
    projections = {"conv/kernel": subspaces.complement(subspaces.basis(gram, 1.0))}
    moved, _ = transformation.update({"conv": {"kernel": update}}, (), projections=projections)
    projected = moved["conv"]["kernel"]
    rows = patches(kept, (3, 3), stride=(2, 2))[0]
    assert np.linalg.norm(rows @ update.reshape(-1, 4)) > 1
    np.testing.assert_allclose(rows @ projected.reshape(-1, 4), 0, atol=1e-4)
    # The patches of one image leave room for an update elsewhere.
    assert np.linalg.norm(projected) > 0.1


def test_gram_matrices_under_jit_and_in_one_piece():
    classifier, x = build("function"), inputs(5)
    alone = subspaces.gram_matrices(classifier, x, microbatch=2)
    jitted = jax.jit(subspaces.gram_matrices)(classifier, x)
    for path in alone:
        np.testing.assert_allclose(alone[path], jitted[path], rtol=1e-5, atol=1e-5)


def test_half_precision_parameters_have_float32_grams():
    classifier = build("function")
    params = jax.tree.map(lambda p: p.astype(jnp.bfloat16), classifier.params)
    halved = classifier.replace(params=params)
    for gram in subspaces.gram_matrices(halved, inputs(2)).values():
        assert gram.dtype == jnp.float32
        assert np.all(np.isfinite(gram))
