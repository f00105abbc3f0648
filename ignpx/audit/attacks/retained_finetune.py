"""Fine-tuning on retained data: does the class come back where nobody shows it?

The attacker, or an owner who only goes on training, needs the weights and retained training
samples; no sample of the forgotten class is used. All parameters are trained, by steps of Adam on
cross-entropy, from the model as it is. Weights that were dampened or moved far from where retained
data wants them can return there, and the class with them. A number that was subtracted from the
logit of the class is not found by it: no retained sample asks for a larger one.

2604.08271 (Gao et al. 2026) reports that simple fine-tuning can bring back what was erased; the
optimiser and the steps are our choice.
"""

import numpy as np

from ignpx._support import checks
from ignpx.audit.attacks import common, tuning
from ignpx.audit.contract import Evidence, Finding, Measure


def retained_finetune(
    *,
    samples: int = 2000,
    steps: int = 20,
    draws: int = 3,
    batch_size: int = 32,
    learning_rate: float = 1e-3,
    images: int = 500,
) -> Measure:
    """Accuracy on the forgotten class after a few steps of training on retained samples alone.

    The mean over several draws of the samples, on test samples. Its interval is the wider one of
    Student's over the draws and Wilson's over the test samples, and not over trainings of the
    model. Needs the weights and labelled retained training samples, and none of the class.

    `details` has the accuracy on retained test samples as `retain_accuracy`, and both accuracies
    after 1, 5, 20 and 100 steps as `forget_accuracy_N` and `retain_accuracy_N`.

    Args:
      samples: retained training samples at most.
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
        common.classes(evidence)
        retained = evidence.samples("retain_train")
        rngs = [np.random.default_rng([evidence.seed, draw]) for draw in range(draws)]
        return tuning.attacked(
            evidence, [common.drawn(retained, samples, rng) for rng in rngs], settings
        )

    return Measure(
        measure,
        title="Fine-tuning on retained data",
        paper="Gao et al. 2026, arXiv 2604.08271",
        needs=("retain_train", "forget_test", "retain_test"),
        unit="share",
        low=0.0,
        high=1.0,
        better="retrained",
    )
