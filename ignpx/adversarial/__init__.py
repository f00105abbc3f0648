"""Attack: find a small change of an input that changes the class that a model predicts.

The attacks are FGSM (Goodfellow et al., ICLR 2015), PGD (Madry et al., ICLR 2018), the L2 attack of
Carlini and Wagner (IEEE S&P 2017) and DeepFool (Moosavi-Dezfooli et al., CVPR 2016). They work on
preprocessed inputs and on a model in evaluation mode. Their results lie across the nearest decision
boundaries. Methods without retained data use them as samples of the classes around a class.

With `targeted=False` an attack leaves the class in `labels`; with `targeted=True` it reaches it.

Lengths are in intensities, where a pixel has 0 to 1. If the classifier's `preprocess` has a `std`,
as `ignpx.data.Normalise` does, lengths are divided by it, channel by channel. For other models,
lengths are in units of the inputs.

`make_proxies` attacks the samples of a class, and sorts what lands in other classes by these.

An attack that fails raises nothing: `Adversarial.success` has the outcome of each input.
"""

from ignpx.adversarial.carlini_wagner import carlini_wagner
from ignpx.adversarial.deepfool import deepfool
from ignpx.adversarial.outcome import Adversarial, Bounds, in_batches, runner_up
from ignpx.adversarial.proxies import Proxies, make_proxies
from ignpx.adversarial.sign import fgsm, pgd

__all__ = [
    "Adversarial",
    "Bounds",
    "Proxies",
    "carlini_wagner",
    "deepfool",
    "fgsm",
    "in_batches",
    "make_proxies",
    "pgd",
    "runner_up",
]


def __dir__() -> list[str]:
    return __all__
