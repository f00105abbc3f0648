"""Weight noise: does the class come back where the weights are disturbed?

The attacker needs the weights, and labelled samples of the class to see which draw brings it back;
no training. To each parameter tensor w Gaussian noise is added, of standard deviation
`scale std(w)`; entries that are not finite, such as a bias that masks a class, stay. What hides a
class by a fine balance of weights does not survive it, while a model that never saw the class has
nothing that could come back. A number that was subtracted from the logit of the class is not found
by it reliably.

No paper has it in this form; the scale and the draws are our choice.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from ignpx._support import checks
from ignpx.audit.attacks import common
from ignpx.audit.contract import Evidence, Finding, Measure
from ignpx.targets import PyTree


@jax.jit
def disturbed(params: PyTree, key: jax.Array, scale: float) -> PyTree:
    """The parameters with Gaussian noise of `scale` times the standard deviation of each tensor."""
    flat, unflatten = ravel_pytree(jax.tree.map(lambda w: jnp.asarray(w, jnp.float32), params))
    noise = unflatten(jax.random.normal(key, flat.shape))  # in one piece, which compiles quickly

    def of_tensor(w: jax.Array, drawn: jax.Array) -> jax.Array:
        finite = jnp.isfinite(w)
        deviation = jnp.std(w, where=finite)  # not a number where no entry is finite
        return jnp.where(finite, w + scale * deviation * drawn, w).astype(w.dtype)

    return jax.tree.map(of_tensor, params, noise)


def weight_noise(*, scale: float = 0.1, draws: int = 10, images: int = 500) -> Measure:
    """Accuracy on the forgotten class with noise on the weights, the mean over several draws.

    Measured on test samples; the interval is the wider one of Student's over the draws of the noise
    and Wilson's over the test samples, and not over trainings of the model. Needs the weights and
    labelled samples of the class. `details` has the largest accuracy of a draw as `largest`, and
    the mean on retained samples as `retain_accuracy`.

    Args:
      scale: standard deviation of the noise, in that of each parameter tensor.
      draws: of the noise.
      images: test samples that accuracy is measured on at most, of the class and of the others.
    """
    checks.positive(scale=scale)
    checks.whole(draws=draws, images=images)

    def measure(evidence: Evidence) -> Finding:
        common.classes(evidence)
        model, found = evidence.model, []
        for key in jax.random.split(jax.random.key(evidence.seed), draws):
            changed = model.replace(params=disturbed(model.params, key, scale))
            found.append(
                [
                    common.accuracy(evidence, changed, "forget_test", images),
                    common.accuracy(evidence, changed, "retain_test", images),
                ]
            )
        forget, retain = np.transpose(found)
        details = {"largest": float(forget.max()), "retain_accuracy": float(retain.mean())}
        return Finding(
            *common.of_draws(forget, min(images, len(evidence.labels("forget_test")))), details
        )

    return Measure(
        measure,
        title="Weight noise",
        paper="no paper",
        needs=("forget_test", "retain_test"),
        unit="share",
        low=0.0,
        high=1.0,
        better="retrained",
    )
