"""From a file of PyTorch to the same file without some classes: one call for the whole way."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax

from ignpx import methods, stages, unlearner
from ignpx._support import checks
from ignpx.data import Normalise
from ignpx.errors import InvalidArgumentError
from ignpx.experiments import scenarios
from ignpx.interop import files, huggingface
from ignpx.request import Request

# What the models that are made for large images take by default; all others take (32, 32, 3).
INPUT_SHAPES = {
    "lenet": (32, 32, 1),
    **dict.fromkeys(("resnet18", "vit_base", "vit_large"), (224, 224, 3)),
}


def forget(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    classes: int | str | Sequence[int | str],
    *,
    arch: str | None = None,
    input_shape: tuple[int, ...] | None = None,
    num_classes: int | None = None,
    naming: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    method: str = "ignp",
    settings: dict[str, Any] | None = None,
    seed: int = 0,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Makes the model in a file or folder forget classes, without data, and writes it as it came.

    Args:
      source: the file or folder, see `load`.
      target: the file or folder to write, see `save`.
      classes: a class to forget, or several, by their numbers; of a folder also by their names.
      arch: see `from_state_dict`; of a folder it is left out.
      input_shape: `(H, W, channels)` of one input; by default what a folder says, `(224, 224, 3)`
        for `resnet18`, `vit_base` and `vit_large`, `(32, 32, 1)` for `lenet`, and `(32, 32, 3)` for
        all others.
      num_classes: see `from_state_dict`.
      naming: see `from_state_dict`.
      mean: of the normalisation of images, a value for each channel, in units of the full
        intensity range; by default what a folder says. Without it the range of pixel values does
        not restrict the prototypes.
      std: of the normalisation, likewise.
      method: one of `ignpx.list_methods(sees="nothing")`.
      settings: hyperparameters of the method.
      seed: of the method.
      overwrite: replaces a file that is there.

    Returns:
      `arch`, `naming`, `input_shape`, `num_classes`, `seconds` of each stage, and the figures of
      the method's `info.summary()`.

    Raises:
      InvalidArgumentError: if an argument or the file cannot be used; nothing is written then.
      UnlearningError: if the method failed; nothing is written then.

    Warns:
      ConversionWarning: see `load` and `save`.
      UnlearningWarning: if the method's diagnostics give reason to doubt the result.
    """
    checks.seed(seed=seed)
    folder = pathlib.Path(source).is_dir()
    (huggingface if folder else files).check_free(pathlib.Path(target), overwrite=overwrite)
    chosen = methods.build(method, settings or {})
    if chosen.sees:
        advice = "needs data, which a file of weights does not have; name a method that sees none"
        raise InvalidArgumentError("method", method, advice)
    given = {"arch": arch, "input_shape": input_shape, "num_classes": num_classes, "naming": naming}
    fields: dict[str, Any] = {name: one for name, one in given.items() if one is not None}
    if not folder:
        fields = {"arch": arch, "input_shape": INPUT_SHAPES.get(arch or "", (32, 32, 3)), **fields}
    if mean is not None or std is not None:
        fields["preprocess"] = Normalise(tuple(mean or ()), tuple(std or ()))
    classifier, origin = files.load(source, **fields)
    numbers = _numbers(classes, getattr(origin, "labels", ()))
    request = Request.classes(numbers, classifier.num_classes)
    with stages.recording() as seconds:
        edited, info = unlearner.unlearn(chosen, classifier, request, jax.random.key(seed))
    files.save(target, edited, origin, overwrite=overwrite)
    return {
        "arch": origin.arch,
        "naming": origin.naming,
        "input_shape": classifier.input_shape,
        "num_classes": classifier.num_classes,
        "seconds": dict(seconds),
        **info.summary(),
    }


def _numbers(classes: Any, labels: Sequence[str]) -> Any:
    """The classes as a list, with numbers for the names."""
    listed = [classes] if isinstance(classes, str) or checks.is_whole(classes) else classes
    if not isinstance(listed, list | tuple):
        return listed
    return [
        scenarios.named([one], lambda: labels, labels).ids[0] if isinstance(one, str) else one
        for one in listed
    ]
