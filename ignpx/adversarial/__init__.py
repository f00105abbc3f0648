"""Attack: the small change of an input that makes a model take it for another class.

FGSM (Goodfellow et al., ICLR 2015), PGD (Madry et al., ICLR 2018), the L2 attack of Carlini and
Wagner (IEEE S&P 2017) and DeepFool (Moosavi-Dezfooli et al., CVPR 2016), on preprocessed inputs and
a model in evaluation mode. What they find lies across the nearest decision boundaries, which is
where methods without retained data look for what surrounds a class.

An attack leaves the class in `labels` (`targeted=False`) or reaches it (`targeted=True`).

Lengths are in intensities, of which a pixel has 0 to 1: where the classifier's `preprocess` divides
by a standard deviation (a `std`, as `ignpx.data.Normalise` has it), they are divided by it, too,
channel by channel. Other models get them as they are, in units of their inputs.

An attack may fail. It raises nothing then: `Adversarial.success` says so, input by input.
"""

from ignpx.adversarial.carlini_wagner import carlini_wagner
from ignpx.adversarial.deepfool import deepfool
from ignpx.adversarial.outcome import Adversarial, Bounds, in_batches, runner_up
from ignpx.adversarial.sign import fgsm, pgd

__all__ = [
    "Adversarial",
    "Bounds",
    "carlini_wagner",
    "deepfool",
    "fgsm",
    "in_batches",
    "pgd",
    "runner_up",
]


def __dir__() -> list[str]:
    return __all__
