"""Forgets a class and trains on a mesh; run by tests/test_sharding.py in processes of its own.

    python tests/distributed_worker.py OUT DATA MODEL [PROCESSES INDEX PORT]

Writes what came out to OUT/result.npz (by the first process), and a sharded checkpoint to
OUT/checkpoint, which it restores on the mesh again, and on the one with its axes swapped.
"""

import contextlib
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ignpx import Classifier, Request, Samples, importance, sharding, training
from ignpx.audit import batches, features
from ignpx.experiments import checkpoint, config
from ignpx.methods import METHODS


class Net(nnx.Module):
    """Small, with batch norm: every layer costs seconds of compilation on every mesh."""

    def __init__(self, rngs):
        self.first = nnx.Conv(3, 8, (3, 3), use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(8, rngs=rngs)
        self.second = nnx.Conv(8, 16, (3, 3), strides=2, rngs=rngs)
        self.head = nnx.Linear(256, 8, rngs=rngs)

    def __call__(self, x):
        x = nnx.relu(self.norm(self.first(x)))
        return self.head(nnx.relu(self.second(x)).reshape(len(x), -1))


def main(out, data, model, processes=1, index=0, port=0):
    if processes > 1:
        jax.distributed.initialize(f"localhost:{port}", processes, index)
    with contextlib.ExitStack() as stack:
        mesh = None
        if data * model > 1:
            mesh = sharding.mesh(data=data, model=model)
            stack.enter_context(jax.set_mesh(mesh))
        found = computed(pathlib.Path(out), mesh)
    if index == 0:
        np.savez(pathlib.Path(out) / "result.npz", **found)


def computed(out, mesh):
    classifier = Classifier.from_nnx(Net(nnx.Rngs(0)), input_shape=(8, 8, 3), num_classes=8)
    if mesh is not None:
        classifier = sharding.place(classifier, mesh)
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(19, 8, 8, 3)).astype(np.float32)
    labels = np.arange(19) % 8
    weights = rng.uniform(size=(2, 19)).astype(np.float32)
    moments = importance.sensitivity_moments(
        classifier, jnp.asarray(inputs), jnp.asarray(labels), jnp.asarray(weights), weights[0]
    )
    unlearner = METHODS["ignp"](samples=4, held_out=2, steps=5, coverage=(0.01, 0.3))
    request = Request.classes([2], 8)
    prepared = unlearner.prepare(classifier, jax.random.key(0))
    edited, info = unlearner.unlearn(classifier, request, jax.random.key(0), prepared)
    images = rng.integers(0, 256, size=(64, 8, 8, 3)).astype(np.float32) / 255
    samples = Samples(images, (np.arange(64) % 8).astype(np.int32))
    recipe = config.Recipe(epochs=2, batch_size=16, learning_rate=0.002)
    tuned, losses = training.fit(classifier, samples, recipe, jax.random.key(1))
    if mesh is not None:
        checkpoint.save(out / "checkpoint", edited, {})
        shapes = jax.eval_shape(lambda tree: tree, edited)
        swapped = sharding.mesh(data=mesh.shape["model"], model=mesh.shape["data"])
        for like in (edited, sharding.place(shapes, swapped)):
            back, _ = checkpoint.load(out / "checkpoint", like=like)
            for a, b, one in zip(*map(jax.tree.leaves, (back, edited, like)), strict=True):
                assert a.sharding == one.sharding
                np.testing.assert_array_equal(whole(a), whole(b))
        divided = [p for p in jax.tree.leaves(edited.params) if not p.is_fully_replicated]
        assert bool(divided) == (mesh.shape["model"] > 1)
    trees = {
        "square": moments.square,
        "mean": moments.mean,
        "inputs": info.prototypes.inputs,
        "coverage": info.calibration.coverage,
        "edited": edited.params,
        "tuned": (tuned.params, tuned.state),
        "losses": losses,
        # All that attacks see.
        "logits": batches.logits(edited, images, 32),
        "features": features.features(edited, images, batch_size=32),
    }
    return {
        f"{name}/{number}": whole(leaf)
        for name, tree in trees.items()
        for number, leaf in enumerate(jax.tree.leaves(tree))
    }


def whole(leaf):
    return leaf if isinstance(leaf, np.ndarray) else sharding.gathered(leaf)


# Orbax starts processes of its own.
if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
