"""JiT, Foster et al., "An information theoretic approach to machine unlearning".

The slope of the model around a sample shows what the model has memorised of the sample. One pass of
plain SGD over the forget set makes the model flat there (Equation 1),

    loss = 1/N sum_j |f(x) - f(x + xi_j)| / |xi_j|,    xi_j ~ N(0, sigma^2),

on logits and preprocessed inputs. The public code calls it Lipschitz.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ignpx import descent
from ignpx._support import checks
from ignpx.classifier import Classifier, PyTree
from ignpx.request import Forgets, Sees
from ignpx.steps import Course, State, chain, descend
from ignpx.unlearner import Changes, Unlearner

# The paper's, by model and by what is forgotten: a class, a part of one, samples at random. For
# random samples and ViT the public code has a rate of 0.1.
PRESETS: dict[tuple[str, str], dict[str, float]] = {
    ("vgg11", "class"): {"learning_rate": 3e-4, "sigma": 0.5, "batch_size": 128},
    ("vgg11", "subclass"): {"learning_rate": 3e-4, "sigma": 0.01, "batch_size": 64},
    ("vgg11", "random"): {"learning_rate": 3e-4, "sigma": 0.01, "batch_size": 128},
    ("vit", "class"): {"learning_rate": 1.5, "sigma": 0.8, "batch_size": 128},
    ("vit", "subclass"): {"learning_rate": 0.5, "sigma": 1.5, "batch_size": 64},
    ("vit", "random"): {"learning_rate": 0.01, "sigma": 0.5, "batch_size": 128},
}


def jit(
    *,
    scenario: Literal["class", "subclass", "random"] | None = None,
    model: Literal["vgg11", "vit"] = "vgg11",
    learning_rate: float | None = None,
    sigma: float | None = None,
    batch_size: int | None = None,
    perturbations: int = 25,
    accumulate: bool = True,
    through_noise: bool = False,
    clamp: bool = True,
) -> Unlearner:
    """Builds the JiT unlearner, which sees the forget set alone.

    The rates and noise levels of `PRESETS` were found with the public code, which differs from the
    paper in ways that change the result. The defaults are the code's. Equation 1 as it stands is
    `accumulate=False, through_noise=True, clamp=False`, and needs a rate of its own.

    The loss is summed over the batch, as in the code, so that the rate goes with the batch size.
    The paper's algorithm box would take a single step, on the last sample; read as one a batch. The
    public code leaves the model in training mode, with dropout; here it is in evaluation mode, as
    the loss is one of single samples and the authors advise against batch norm.

    Args:
      scenario: the kind of request, `class`, `random` or `subclass`. Its preset has the defaults of
        `learning_rate`, `sigma` and `batch_size`. By default it is `class` or `random`, by the
        request; a request does not show that it is a `subclass`.
      model: the model for which the preset was found.
      learning_rate: of SGD.
      sigma: standard deviation of the noise, in units of the preprocessed inputs. The result hangs
        on it: a small one makes the quotient large, and may forget more.
      batch_size: forget samples a step; the last batch may have fewer.
      perturbations: N, noisy copies of each sample. 25 in the code; the paper does not say. Memory
        grows with it.
      accumulate: never clears the gradients: each step takes the sum of all so far.
      through_noise: differentiates the noisy branch, too.
      clamp: limits noisy inputs to the smallest and the largest value in their batch, and divides
        by the distance that remains. A noisy input counts as flat, with a quotient of 0, if that
        distance is within the rounding of the input: float32's 1.2e-7 of its norm.

    Raises:
      InvalidArgumentError: if an argument is out of its range.
    """
    if scenario is not None:
        checks.one_of(("class", "subclass", "random"), scenario=scenario)
    checks.one_of(("vgg11", "vit"), model=model)
    chosen = {"learning_rate": learning_rate, "sigma": sigma, "batch_size": batch_size}
    given: dict[str, float] = {name: one for name, one in chosen.items() if one is not None}
    checks.positive(**given)
    checks.whole(perturbations=perturbations)
    if batch_size is not None:
        checks.whole(batch_size=batch_size)

    def course(state: State, key: jax.Array) -> Course:
        asked = scenario or ("class" if state.request.asks == Forgets.CLASSES else "random")
        preset = PRESETS[model, asked] | given
        # Gradients that are never cleared are a momentum that never decays.
        momentum = 1.0 if accumulate else 0.0
        optimizer = descent.optimizer("sgd", preset["learning_rate"], momentum=momentum)
        order_key, key = jax.random.split(key)
        count = len(state.forget_data.labels)
        rows = descent.batches(order_key, count, int(preset["batch_size"]), whole=True)
        # The loss is a sum: what only fills the last batch up must not count.
        real = (jnp.arange(rows.size) < count).reshape(rows.shape).astype(jnp.int32)
        loss = _steepness(state.classifier, preset["sigma"], perturbations, through_noise, clamp)
        data = {"samples": state.forget_data, "weight": np.array([0.0, 1.0], np.float32)}
        return Course(loss, optimizer, data, {"samples": rows, "weight": real}, key)

    changes = Changes.TARGETS | Changes.OTHER_LAYERS
    return chain(descend(course, sees=Sees.FORGET, changes=changes), forgets=Forgets.ANY)


def _steepness(
    classifier: Classifier, sigma: float, perturbations: int, through_noise: bool, clamp: bool
) -> descent.Loss:
    """How much the logits change by noise on the inputs, relative to it."""
    apply, preprocess = classifier.apply, classifier.preprocess

    def loss(
        params: PyTree, state: PyTree, batch: dict[str, Any], key: jax.Array, extra_args: PyTree
    ) -> tuple[jax.Array, PyTree]:
        inputs, weight = preprocess(batch["samples"].images), batch["weight"]
        noise = jax.random.normal(key, (perturbations, *inputs.shape), jnp.float32)
        noised = inputs[None] + sigma * noise
        if clamp:
            real = (weight > 0).reshape(-1, *[1] * (inputs.ndim - 1))
            lowest = jnp.min(inputs, initial=jnp.inf, where=real)
            noised = jnp.clip(noised, lowest, jnp.max(inputs, initial=-jnp.inf, where=real))

        def logits(params: PyTree, inputs: jax.Array) -> jax.Array:
            return apply(params, state, inputs, train=False)[0].astype(jnp.float32)

        of_noise = params if through_noise else jax.lax.stop_gradient(params)
        around = logits(of_noise, noised.reshape(-1, *inputs.shape[1:]))
        changes = logits(params, inputs)[None] - around.reshape(perturbations, len(inputs), -1)
        distances = (noised - inputs[None]).reshape(perturbations, len(inputs), -1)
        # Norms that are safe where they are zero: there they have no gradient.
        rise = optax.safe_norm(changes, 0.0, axis=-1)
        run = optax.safe_norm(distances, 0.0, axis=-1)
        # Clamping can leave a noisy input nearer to the input than the input's rounding, or equal
        # to it. What the logits then rise by is rounding, not steepness.
        scale = jnp.linalg.norm(inputs.reshape(len(inputs), -1), axis=-1)
        apart = run > jnp.finfo(run.dtype).eps * scale[None]
        steepness = jnp.where(apart, rise / jnp.where(apart, run, 1.0), 0.0)
        return jnp.sum(weight * jnp.mean(steepness, axis=0)), state

    return loss
