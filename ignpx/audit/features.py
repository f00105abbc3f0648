"""Separability of the forgotten classes in the features before the head, and a t-SNE of these.

The papers on unlearning show t-SNE plots (van der Maaten and Hinton, JMLR 2008) of features, some
with synthetic samples beside the real ones. A plot depends on its random start, and is no number.
The number here is taken before the reduction: the silhouette (Rousseeuw 1987) of the test samples
of the forgotten classes, `s = (b - a) / max(a, b)`, with `a` the mean Euclidean distance to the
samples of the own class and `b` that to those of the nearest other class, averaged over them.
"""

import functools

import jax
import numpy as np
import optax

from ignpx import synthesis
from ignpx._support import checks
from ignpx.audit import intervals
from ignpx.audit.batches import in_batches
from ignpx.audit.contract import Evidence, Finding, Measure, NotMeasuredError, at_least
from ignpx.classifier import Classifier
from ignpx.samples import Samples


def features(classifier: Classifier, images: np.ndarray, *, batch_size: int = 500) -> np.ndarray:
    """The features before the head (see `Classifier.features`), flat, `(N, F)` float32.

    Args:
      classifier: in evaluation mode.
      images: `(N, ...)`, as its `preprocess` takes them.
      batch_size: images per device call.
    """
    return in_batches(_features, classifier, images, batch_size)


@jax.jit
def _features(classifier: Classifier, images: jax.Array) -> jax.Array:
    return _flat(classifier.features(classifier.preprocess(images)))


@jax.jit
def _features_of_inputs(classifier: Classifier, inputs: jax.Array) -> jax.Array:
    return _flat(classifier.features(inputs))


def _flat(found: jax.Array) -> jax.Array:
    return found.reshape(len(found), -1).astype("float32")


def prototypes(classifier: Classifier, key: jax.Array, *, samples: int, steps: int) -> Samples:
    """Synthetic inputs, some of each class, by cross-entropy and total variation (`synthesise`).

    Returns:
      Inputs `(K n, *input_shape)`, preprocessed, and their classes.
    """
    made = synthesis.synthesise(
        classifier,
        key,
        terms=_terms(),
        samples=samples,
        steps=steps,
        optimizer=_adam(),
        bounds=classifier.bounds,
    )
    inputs = np.asarray(made.inputs).reshape(-1, *classifier.input_shape)
    return Samples(inputs, np.repeat(np.asarray(made.labels), samples))


# Cached, so that all calls compile once.
@functools.cache
def _terms() -> tuple[synthesis.Term, ...]:
    return synthesis.cross_entropy(), synthesis.total_variation(1.0)


@functools.cache
def _adam() -> optax.GradientTransformation:
    return optax.adam(0.05)


def embedded(features: np.ndarray, seed: int) -> np.ndarray:
    """The coordinates of features `(N, F)` by scikit-learn's t-SNE, `(N, 2)` float32."""
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    # Its default perplexity, or what so few samples allow.
    reducer = TSNE(perplexity=min(30.0, (len(features) - 1) / 3), random_state=seed)
    # Its threads wait for each other a thousand times, which takes minutes on cores that are busy.
    with threadpool_limits(1):
        return np.asarray(reducer.fit_transform(features), np.float32)


def separability(*, images: int = 500, synthetic: int = 5, steps: int = 100) -> Measure:
    """The mean silhouette of the test samples of the forgotten classes, before the head.

    Its interval is the bootstrap's over these samples. The value to reach is that of a retrained
    model; `retained` is the mean of all other samples. `arrays` have the coordinates of a t-SNE of
    the samples and of synthetic ones, with `labels` and `synthetic`.

    Args:
      images: test samples at most, of the forgotten and of the other classes together, drawn at
        random in proportion. The time grows with their square.
      synthetic: synthetic samples of each class in the t-SNE; 0 for none.
      steps: optimisation steps of these.
    """
    checks.whole(images=images, steps=steps)
    if synthetic:
        checks.whole(synthetic=synthetic)

    def measure(evidence: Evidence) -> Finding:
        from sklearn.metrics import silhouette_samples

        if not evidence.classes:
            raise NotMeasuredError("classes", (), "no class was forgotten as a whole")
        chosen = _chosen(evidence, images)
        gone = np.isin(chosen.labels, evidence.classes)
        at_least("forget_test", int(gone.sum()), 2)
        others = len(np.unique(chosen.labels[~gone]))
        at_least("classes of retain_test", others, 1)
        at_least("test samples", len(gone), evidence.model.num_classes + 1)
        found = features(evidence.model, chosen.images, batch_size=evidence.batch_size)
        silhouettes = silhouette_samples(found, chosen.labels)
        made = np.zeros(len(found), bool)
        labels = chosen.labels
        if synthetic:
            key = jax.random.key(evidence.seed)
            drawn = prototypes(evidence.model, key, samples=synthetic, steps=steps)
            theirs = in_batches(
                _features_of_inputs, evidence.model, drawn.images, evidence.batch_size
            )
            made = np.arange(len(found) + len(theirs)) >= len(found)
            found = np.concatenate([found, theirs])
            labels = np.concatenate([labels, drawn.labels])
        return Finding(
            float(silhouettes[gone].mean()),
            *intervals.of_mean(silhouettes[gone].astype(float), evidence.seed),
            details={"retained": float(silhouettes[~gone].mean())},
            arrays={
                "coordinates": embedded(found, evidence.seed),
                "labels": labels,
                "synthetic": made,
            },
        )

    return Measure(
        measure,
        title="Separability of features",
        paper="Rousseeuw 1987; t-SNE: van der Maaten and Hinton 2008",
        needs=("forget_test", "retain_test"),
        unit="statistic",
        low=-1.0,
        high=1.0,
        better="retrained",
    )


def _chosen(evidence: Evidence, images: int) -> Samples:
    """Test samples of all classes, as many as are wanted at most."""
    parts = [evidence.samples("forget_test"), evidence.samples("retain_test")]
    found, labels = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    order = np.random.default_rng(evidence.seed).permutation(len(labels))[:images]
    return Samples(found[order], labels[order])
