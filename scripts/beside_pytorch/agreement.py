"""Both sides of `bench_vs_pytorch.py` compute the same, or nothing is timed."""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import torch
from torch.nn import functional

import pytorch_side as theirs
from beside_pytorch.contests import PRIORS
from beside_pytorch.subject import Subject, channels_first, channels_last
from ignpx import edits, importance, selection, synthesis, targets
from ignpx.classifier import Classifier, PyTree
from ignpx.losses import cross_entropy
from ignpx.methods import PAPER
from ignpx.samples import Samples

# The largest relative difference (Euclidean norm, the worst array) at which both sides count as the
# same. float32 has 6e-8; sums over thousands of terms in another order lose two to three digits,
# squares of gradients through many layers another one. What differs in kind (a padding, a mean for
# a sum, a transposed kernel) is off by 0.01 and mostly by 1.
TOLERANCES = {
    "logits": 1e-4,
    "gradient of synthesis": 1e-3,
    # Of the distance that the inputs moved. Adam divides by the size of a gradient: a pixel whose
    # gradient is rounding alone steps either way.
    "inputs after 3 steps": 3e-2,
    "sensitivities": 1e-3,
    # Of the number selected: neighbours of alpha may fall on either side of it.
    "mask": 1e-2,
    # Of the change, for the same sensitivities and alpha.
    "dampened parameters": 1e-4,
    "importances of SSD": 1e-3,
    "gradient of training": 1e-3,
}


def check(found: dict[str, float]) -> None:
    """Prints differences.

    Raises:
      SystemExit: if one of them is above its tolerance.
    """
    for name, difference in found.items():
        print(f"  {name}: differ by {difference:.1e}, tolerated are {TOLERANCES[name]:.0e}")
    wrong = [name for name, difference in found.items() if not difference <= TOLERANCES[name]]
    if wrong:
        raise SystemExit(
            f"ignpx and PyTorch do not compute the same: {', '.join(wrong)}. It is more than "
            "rounding explains; nothing is timed, as the times would be those of different things"
        )


def differences(subject: Subject, samples: int, batch_size: int) -> dict[str, float]:
    """The largest relative difference of both sides in each thing that they compute.

    Args:
      subject: the model.
      samples: of each class, of noise. Few will do, and are better: among many images some unit
        is so near to zero that rounding switches it, and everything below it differs.
      batch_size: of the one batch of data.
    """
    classifier = subject.classifier
    key = jax.random.key(1)
    noise = jax.random.normal(key, (classifier.num_classes, samples, *classifier.input_shape))
    inputs = noise.reshape(-1, *classifier.input_shape)
    logits = jax.jit(Classifier.logits)(classifier, inputs)
    with torch.no_grad():
        found = {"logits": apart(logits, subject.model(channels_first(inputs, subject.device)))}
    found |= _of_synthesis(subject, key, noise)
    # The least likely class of each input, so that no loss vanishes.
    found |= _of_edit(subject, inputs, jnp.argmin(logits, axis=1), samples)
    subject.restore()
    found |= _of_data(subject, batch_size)
    subject.restore()
    return found


def _of_synthesis(subject: Subject, key: jax.Array, noise: jax.Array) -> dict[str, float]:
    classifier, device = subject.classifier, subject.device
    classes, samples = noise.shape[:2]
    labels = jnp.arange(classes)
    terms = [
        term()
        for term in (
            synthesis.cross_entropy,
            synthesis.diversity,
            synthesis.total_variation,
            synthesis.batch_statistics,
        )
    ]

    def objective(inputs: jax.Array, classifier: Classifier) -> jax.Array:
        view = synthesis.View.of(classifier, inputs, labels)
        return sum((term(view) for term in terms), jnp.float32(0.0))

    gradient = jax.jit(jax.grad(objective))(noise, classifier)
    descended = synthesis.synthesise(
        classifier,
        key,
        terms=terms,
        samples=samples,
        steps=3,
        optimizer=optax.adam(0.1),
        bounds=classifier.bounds,
    )
    settings = theirs.IgnpSettings(samples, 0, 3, **PRIORS)
    total = theirs.Objective(subject.model, torch.arange(classes, device=device), settings)
    start = channels_first(noise, device).requires_grad_()
    total(start).backward()
    moved = theirs.descend(start.detach(), total, 3, 0.1, subject.preprocess.bounds)
    total.close()
    return {
        "gradient of synthesis": apart(gradient, channels_last(start.grad)),
        "inputs after 3 steps": apart(descended.inputs, channels_last(moved), noise),
    }


def _of_edit(
    subject: Subject, inputs: jax.Array, labels: jax.Array, samples: int
) -> dict[str, float]:
    """The first inputs stand for what is forgotten, the others for what is retained."""
    classifier, device = subject.classifier, subject.device
    first = jnp.arange(len(labels)) < samples
    weigh = functools.partial(
        importance.sensitivity, classifier, inputs, labels, patterns=classifier.targets
    )
    forget, retain = (weigh(part / part.sum()) for part in (first, ~first))
    x, y = channels_first(inputs, device), torch.tensor(np.array(labels)).long().to(device)
    found = {"sensitivities": 0.0}
    for way in (theirs.by_loop, functools.partial(theirs.by_vmap, chunk=3)):
        theirs_forget, theirs_retain = (
            way(subject.model, subject.targets, x[part], y[part])
            for part in (slice(samples), slice(samples, None))
        )
        for mine, other in ((forget, theirs_forget), (retain, theirs_retain)):
            difference = apart(mine, theirs.returned(other, mine))
            found["sensitivities"] = max(found["sensitivities"], difference)

    total = targets.size(classifier.params)
    ratios = selection.log_ratio(forget, retain)
    log_alpha = selection.calibrate(ratios, PAPER["coverage"], total=total).log_alpha
    mask = selection.mask(ratios, log_alpha)
    other = {name: theirs_forget[name] / theirs_retain[name] for name in subject.targets}
    alpha = theirs.calibrate(other, PAPER["coverage"], total, exact=True)
    selected = theirs.returned({name: ratio > alpha for name, ratio in other.items()}, mask)
    flipped = jax.tree.map(lambda a, b: int(np.sum(np.asarray(a) != b)), mask, selected)
    found["mask"] = sum(jax.tree.leaves(flipped)) / max(1, int(selection.count(mask)))

    strength = theirs.IgnpSettings.strength
    dampened = edits.scale(classifier.params, edits.dampening(ratios, log_alpha, strength))
    given = theirs.carried(jax.tree.map(jnp.exp, ratios), device)
    theirs.dampen(subject.model, given, math.exp(log_alpha), strength)
    edited = subject.edited().params
    before = classifier.params
    found["dampened parameters"] = apart(_joined(dampened), _joined(edited), _joined(before))
    return found


def _of_data(subject: Subject, batch_size: int) -> dict[str, float]:
    classifier, model = subject.classifier, subject.model
    assert subject.request.forget_data is not None  # as a subject's request has
    few = Samples(*(part[:batch_size] for part in subject.request.forget_data))
    other = theirs.Samples(*(part[:batch_size] for part in subject.forget_data))
    squares = importance.squared_batch_gradients(classifier, few, batch_size=batch_size)
    theirs_squares = theirs.importances(model, other, subject.preprocess, batch_size)
    found = {"importances of SSD": apart(squares, theirs.returned(theirs_squares, squares))}

    def loss(params: PyTree, classifier: Classifier, samples: Samples) -> jax.Array:
        inputs = classifier.preprocess(samples.images)
        logits, _ = classifier.apply(params, classifier.state, inputs, train=True)
        return cross_entropy(logits, samples.labels).mean()

    batch = Samples(*map(jnp.asarray, few))
    slope = jax.jit(jax.grad(loss))(classifier.params, classifier, batch)
    names, parameters = zip(*model.train().requires_grad_(True).named_parameters(), strict=True)
    images, labels = other
    theirs_loss = functional.cross_entropy(model(subject.preprocess(images)), labels)
    gradients = torch.autograd.grad(theirs_loss, parameters)
    returned = theirs.returned(dict(zip(names, gradients, strict=True)), slope)
    # All parameters together: a bias that the next normalisation takes away has none but rounding.
    found["gradient of training"] = apart(_joined(slope), _joined(returned))
    return found


def apart(ours: PyTree, other: PyTree, origin: PyTree = None) -> float:
    """`|ours - other| / |ours - origin|` of the worst array; infinite if that is not a number."""
    origin = jax.tree.map(np.zeros_like, ours) if origin is None else origin

    def leaf(a: Any, b: Any, start: Any) -> float:
        a, b, start = (_on_host(array).astype(np.float64) for array in (a, b, start))
        distance, length = np.linalg.norm(a - b), np.linalg.norm(a - start)
        if not np.isfinite(distance + length):
            return math.inf
        return float(distance / length) if length else float(distance > 0)

    return max(jax.tree.leaves(jax.tree.map(leaf, ours, other, origin)))


def _on_host(array: Any) -> np.ndarray:
    return array.numpy(force=True) if isinstance(array, torch.Tensor) else np.asarray(array)


def _joined(tree: PyTree) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])
