"""Random labelling (RL), Golatkar et al., "Eternal sunshine of the spotless net", CVPR 2020.

The model is fine-tuned on the forget set under labels drawn at random, and on the retained data
under their own. This is the baseline as Fan et al. (SalUn, ICLR 2024) run it, and what SalUn does
under its mask.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp

from ignpx import descent
from ignpx._support import checks
from ignpx.classifier import PyTree
from ignpx.descent import DescentInfo
from ignpx.request import Forgets, Sees
from ignpx.samples import Samples
from ignpx.steps import State, Step, chain, under_mask
from ignpx.unlearner import Changes, Unlearner


def random_labels(
    *,
    epochs: int = 10,
    learning_rate: float = 0.01,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    batch_size: int = 256,
    mixed: bool = False,
    zero_shot: bool = False,
) -> Unlearner:
    """Builds the random-label unlearner, which sees the forget set and the retained data.

    The defaults are those of SalUn's public code for CIFAR-10 and SVHN: an epoch is one pass over
    the forget set, with labels drawn anew for every batch, and then one over the retained data.
    Labels are uniform on all classes; one can be the right one, or another that is to be forgotten.
    In training mode.

    Args:
      epochs: see above.
      learning_rate: of SGD.
      momentum: of the same.
      weight_decay: added to the gradient, as PyTorch does.
      batch_size: samples a step; the last batch of a pass is filled up.
      mixed: shuffles both sets together, with labels drawn anew for every epoch: the public code
        for CIFAR-100 and Tiny ImageNet.
      zero_shot: withholds the retained data, as ZS-PAG's comparison does (there `FT-zs`).

    Raises:
      InvalidArgumentError: if an argument is out of its range.
    """
    return chain(
        relabel(
            epochs=epochs,
            learning_rate=learning_rate,
            momentum=momentum,
            weight_decay=weight_decay,
            batch_size=batch_size,
            mixed=mixed,
            zero_shot=zero_shot,
        ),
        forgets=Forgets.ANY,
    )


def relabel(
    *,
    epochs: int,
    learning_rate: float,
    momentum: float,
    weight_decay: float,
    batch_size: int,
    mixed: bool,
    zero_shot: bool,
    masked: bool = False,
) -> Step:
    """Fine-tunes under random labels, see `random_labels`; with `masked`, what was selected.

    Raises:
      InvalidArgumentError: if an argument is out of its range.
    """
    checks.whole(epochs=epochs, batch_size=batch_size)
    plain_sgd = descent.optimizer(
        "sgd", learning_rate, momentum=momentum, weight_decay=weight_decay
    )

    def a_pass(loss: descent.Loss, samples: Samples, key: jax.Array) -> descent.Pass:
        rows = descent.batches(key, len(samples.labels), batch_size, whole=True)
        return descent.Pass(loss, samples, rows)

    def passes(state: State, key: jax.Array) -> Iterator[descent.Pass]:
        plain, classes = descent.CrossEntropy.of(state.classifier), state.classifier.num_classes
        forget = jax.device_put(state.forget_data)
        kept = [] if zero_shot else [jax.device_put(state.retain_data)]
        images = jnp.concatenate([part.images for part in (forget, *kept)]) if mixed else None
        for epoch_key in jax.random.split(key, epochs):
            label_key, forget_key, retain_key = jax.random.split(epoch_key, 3)
            if mixed:
                drawn = _drawn(label_key, forget.labels.shape, classes)
                labels = jnp.concatenate([drawn, *(part.labels for part in kept)])
                yield a_pass(plain, Samples(images, labels), forget_key)
            else:
                yield a_pass(_relabelled(plain, classes), forget, forget_key)
                for part in kept:
                    yield a_pass(plain, part, retain_key)

    def run(state: State, key: jax.Array, _: Any) -> tuple[State, DescentInfo]:
        passes_key, step_key = jax.random.split(key)
        optimizer, mask = under_mask(plain_sgd, state) if masked else (plain_sgd, {})
        tuned, losses = descent.in_turn(
            passes(state, passes_key), optimizer, state.classifier, step_key, mask
        )
        return state.replace(classifier=tuned), DescentInfo(losses)

    sees = Sees.FORGET if zero_shot else Sees.BOTH
    return Step("descent", run, sees=sees, changes=Changes.ALL)


def _relabelled(cross_entropy: descent.Loss, num_classes: int) -> descent.Loss:
    """Cross-entropy under labels drawn anew for every batch."""

    def loss(
        params: PyTree, state: PyTree, batch: Samples, key: jax.Array, extra_args: PyTree
    ) -> tuple[jax.Array, PyTree]:
        labels = _drawn(key, batch.labels.shape, num_classes)
        return cross_entropy(params, state, batch._replace(labels=labels), key, extra_args)

    return loss


def _drawn(key: jax.Array, shape: tuple[int, ...], num_classes: int) -> jax.Array:
    return jax.random.randint(key, shape, 0, num_classes)
