"""What XLA makes of a request and of a training step: what would cost time on an accelerator."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from ignpx import Request, models, synthesis
from ignpx._xla import loops
from ignpx.data import Normalise
from ignpx.methods import build
from ignpx.samples import Samples
from ignpx.training import Recipe, epochs
from test_precision import operands


def test_a_request_stays_on_the_device(mlp):
    unlearner = build("ignp", {"samples": 2, "held_out": 2, "steps": 3, "coverage": (0.01, 0.3)})
    request = Request.classes([1], mlp.num_classes)
    program = jax.jit(unlearner.unlearn).lower(mlp, request, jax.random.key(0)).compile()
    for word in ("infeed", "outfeed", "send(", "recv(", "callback"):
        assert word not in program.as_text()


def test_a_longer_synthesis_takes_no_more_memory(mlp):
    """The carry of the loop is updated in place."""
    terms, optimizer = (synthesis.cross_entropy(),), optax.adam(0.1)
    noise = jnp.zeros((mlp.num_classes, 50, *mlp.input_shape))
    carry = (noise, optimizer.init(noise))
    inputs = (mlp, jnp.arange(mlp.num_classes), None)
    step, used = synthesis._step(terms, optimizer, 1.0), []
    for steps in (4, 400):
        run: Any = loops._scanned(step, steps)
        program = run.lower(inputs, carry).compile()
        used.append(program.memory_analysis().temp_size_in_bytes)
    # What grows is the loss of each class, and whether its gradient is finite.
    assert used[1] - used[0] <= 396 * mlp.num_classes * 8
    assert used[1] < 20 * noise.nbytes


def test_training_in_bfloat16_is_of_bfloat16():
    fresh = models.create(
        "cifar_resnet18",
        input_shape=(32, 32, 3),
        num_classes=10,
        width=0.05,
        preprocess=Normalise((0.5,) * 3, (0.25,) * 3),
    )
    recipe = Recipe(epochs=2, batch_size=4, precision="bfloat16", crop_padding=4, flip=True)
    loss = epochs.loss_of(fresh, recipe)
    batch = Samples(jnp.zeros((4, 32, 32, 3), jnp.uint8), jnp.arange(4))

    def value(params):
        return loss(params, fresh.state, batch, jax.random.key(0), {})

    gradient = jax.value_and_grad(value, has_aux=True)
    traced = jax.make_jaxpr(gradient)(fresh.params)
    assert set(operands(traced.jaxpr)) == {("bfloat16", "bfloat16")}
    (_, state), gradients = jax.eval_shape(jax.value_and_grad(value, has_aux=True), fresh.params)
    for leaf in jax.tree.leaves((state, gradients)):
        assert leaf.dtype == jnp.float32
