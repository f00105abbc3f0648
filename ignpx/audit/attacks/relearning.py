"""Relearning: how much of the class comes back by a few steps of training on a few samples.

The attacker needs the weights, and n labelled training samples of every class, forgotten and
retained. All parameters are trained, by steps of Adam on cross-entropy, from the model as it is.

`relearning-time` (Golatkar et al. 2020) counts the steps on all training data until the class is
back. Here the data is few: a retrained model has to learn the class from them, a model that only
hides the class has to be told to show it. Retained samples are among them because a model that is
trained on the class alone answers it for everything; `retain_accuracy` shows whether it does.
2604.08271 (Gao et al. 2026) names such fine-tuning as what brings erased classes back; the samples,
the optimiser and the steps are our choice.
"""

import numpy as np

from ignpx._support import checks
from ignpx.audit.attacks import common, tuning
from ignpx.audit.contract import Evidence, Finding, Measure


def relearning(
    *,
    samples: int = 10,
    steps: int = 20,
    draws: int = 3,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    images: int = 500,
) -> Measure:
    """Accuracy on the forgotten class after a few steps of training on a few samples of each class.

    The mean over several draws of the samples, on test samples. Its interval is the wider one of
    Student's over the draws and Wilson's over the test samples, and not over trainings of the
    model. Needs the weights, and labelled training samples of the class and of the others.

    `details` has the accuracy on retained test samples as `retain_accuracy`, and both accuracies
    after 1, 5, 20 and 100 steps as `forget_accuracy_N` and `retain_accuracy_N`.

    Args:
      samples: training samples of each class.
      steps: of Adam, after which the value is taken.
      draws: of the samples; each is a training of its own.
      batch_size: samples in a step.
      learning_rate: learning rate of Adam.
      images: test samples that accuracy is measured on at most, of the class and of the others.
    """
    settings = tuning.Settings(steps, draws, batch_size, learning_rate, images)
    settings.check()
    checks.whole(samples=samples)

    def measure(evidence: Evidence) -> Finding:
        rngs = [np.random.default_rng([evidence.seed, draw]) for draw in range(draws)]
        few = [common.of_each_class(evidence, samples, rng) for rng in rngs]
        return tuning.attacked(evidence, few, settings)

    return Measure(
        measure,
        title="Relearning",
        paper="fine-tuning: Gao et al. 2026, arXiv 2604.08271; Golatkar et al. 2020",
        needs=("forget_train", "retain_train", "forget_test", "retain_test"),
        unit="share",
        low=0.0,
        high=1.0,
        better="retrained",
    )
