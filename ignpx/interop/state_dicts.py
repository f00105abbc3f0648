"""Models of ours from the state dicts of PyTorch, and back under the same keys."""

import dataclasses
import warnings
from collections.abc import Mapping
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ignpx import models, targets
from ignpx._support import checks
from ignpx.classifier import Classifier, check_handle
from ignpx.data import Normalise
from ignpx.errors import ConversionWarning, InvalidArgumentError, near_names
from ignpx.interop import arrays
from ignpx.interop.layouts import Layout, Tensor, layout
from ignpx.interop.modules import TorchApply
from ignpx.interop.names import NAMINGS, explained

_VARIANCE = "running_var"

# What `DataParallel`, `torch.compile` and trainers put before every key.
PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
# The buffers of a normalisation within the model, in the ResNets of Unlearn-Saliency.
NORMALISATION = ("normalize.mean", "normalize.std")
NORMALISING = ("resnet18", "cifar_resnet18")


@dataclasses.dataclass(frozen=True, eq=False)
class Origin:
    """What a state dict was like; `to_state_dict` and `save` write the same.

    Attributes:
      arch: one of `ignpx.interop.list_architectures`.
      naming: one of the namings of this architecture.
      prefix: what stood before every key, such as `module.`.
      keys: all keys in their order, without the prefix.
      dtypes: of the tensors of the model, by their keys.
      others: arrays that are no part of our model, by their keys: counters of batches and buffers
        of a normalisation.
      wide: tensors of float64, by their keys. JAX computes in float32 unless it is told otherwise.
      checkpoint: what a file holds besides, see `ignpx.interop.files.Contents`.
    """

    arch: str
    naming: str
    prefix: str = ""
    keys: tuple[str, ...] = ()
    dtypes: Mapping[str, np.dtype] = dataclasses.field(default_factory=dict, repr=False)
    others: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict, repr=False)
    wide: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict, repr=False)
    checkpoint: Any = dataclasses.field(default=None, repr=False)


def list_architectures() -> dict[str, list[str]]:
    """The namings that are known of each architecture, by its name in `ignpx.models`."""
    return {arch: list(namings) for arch, namings in NAMINGS.items()}


def from_state_dict(
    state_dict: Mapping[str, Any],
    *,
    arch: str,
    input_shape: tuple[int, ...],
    num_classes: int | None = None,
    width: float = 1.0,
    naming: str | None = None,
    **fields: Any,
) -> tuple[Classifier, Origin]:
    """Takes the weights of a PyTorch model whose architecture is one of ours.

    Args:
      state_dict: what `module.state_dict()` returns; tensors, or arrays of NumPy. Half precision
        stays. A prefix that all keys share, such as `module.`, is left out.
      arch: one of `list_architectures`.
      input_shape: `(H, W, channels)` of one preprocessed input; our models have channels last.
      num_classes: width of the logits; by default what the last layer has.
      width: see `ignpx.models.create`.
      naming: whose names the keys are; by default those that most keys have.
      **fields: `preprocess` and `targets` of the `Classifier`.

    Returns:
      The classifier, and what the state dict was like.

    Raises:
      InvalidArgumentError: if a tensor is missing, too many, of another shape, or no
        floating-point numbers; all of them are listed.

    Warns:
      ConversionWarning: if a prefix is left out, or float64 is computed in float32.
    """
    if arch not in NAMINGS:
        raise InvalidArgumentError("arch", arch, near_names(str(arch), NAMINGS))
    _check_channels_last(input_shape)
    if num_classes is not None:
        checks.whole(num_classes=num_classes)
    given, prefix = _stripped(_arrays(state_dict))
    if given.keys() >= set(NORMALISATION) and arch in NORMALISING:
        fields["preprocess"] = _normalisation(given, fields)

    def empty(classes: int) -> Classifier:
        build = partial(models.create, arch, input_shape=input_shape, num_classes=classes)
        return jax.eval_shape(lambda: build(width=width, **fields))

    made = empty(num_classes or 2)
    chosen = naming or _most_alike(arch, made, given)
    wanted = _layout(arch, chosen, made)
    classes = num_classes or _rows(given.get(wanted.head))
    if classes and classes != made.num_classes:
        made = empty(classes)
        wanted = _layout(arch, chosen, made)
    others = {name: array for name, array in given.items() if _beside(name, arch)}
    used = {name: array for name, array in given.items() if name not in others}
    _check(arch, chosen, wanted, used)
    leaves = [jnp.asarray(one.ours(used[one.name])) for one in wanted.tensors.values()]
    params, state = jax.tree.unflatten(jax.tree.structure((made.params, made.state)), leaves)
    wide = {name: array for name, array in used.items() if array.dtype == np.float64}
    if wide and leaves[0].dtype != np.float64:
        said = (
            "the tensors are float64, and JAX computes in float32; values that do not change are "
        )
        _warn(f"{said}written back as they came")
    dtypes = {name: array.dtype for name, array in used.items()}
    origin = Origin(arch, chosen, prefix, tuple(given), dtypes, others, wide)
    return made.replace(params=params, state=state), origin


def to_state_dict(classifier: Classifier, origin: Origin | str | None = None) -> dict[str, Any]:
    """The weights of a classifier under the keys of a PyTorch model, for `load_state_dict`.

    Args:
      classifier: made by `from_torch`, `from_state_dict` or `ignpx.models.create`, and edited
        since.
      origin: what the state dict was like that it came from; its keys, dtypes and other tensors
        come back. Or a naming such as `torchvision`, for a model that was trained here. None for a
        classifier of `from_torch`, which has its keys itself.

    Returns:
      Tensors on the CPU by their keys. Where a key counts batches, a model that was trained here
      has 0.

    Raises:
      InvalidArgumentError: if the classifier is not of the architecture that `origin` describes.
    """
    return {name: arrays.to_torch(array) for name, array in to_arrays(classifier, origin).items()}


def to_arrays(classifier: Classifier, origin: Origin | str | None) -> dict[str, np.ndarray]:
    """As `to_state_dict`, as arrays of NumPy."""
    check_handle(classifier)
    apply = getattr(classifier.apply, "apply", classifier.apply)  # within a lower precision
    if isinstance(apply, TorchApply):
        now = apply.variables(classifier.params, classifier.state)
        return {name: np.asarray(now[name]).astype(dtype) for name, _, dtype in apply.keys}
    origin = _exported(classifier, origin) if isinstance(origin, str) else origin
    if not isinstance(origin, Origin):
        advice = "must be what from_state_dict or load returned, or a naming such as 'torchvision'"
        raise InvalidArgumentError("origin", checks.shortened(origin), advice)
    wanted = _layout(origin.arch, origin.naming, classifier)
    leaves = jax.tree.leaves((classifier.params, classifier.state))
    found = dict(origin.others)
    for one, leaf in zip(wanted.tensors.values(), leaves, strict=True):
        found[one.name] = _written(one, np.asarray(leaf), origin)
    if found.keys() != set(origin.keys):
        advice = "is not the origin of this classifier; give the one that came with it"
        raise InvalidArgumentError("origin", origin.arch, advice)
    return {origin.prefix + name: found[name] for name in origin.keys}


def _written(tensor: Tensor, leaf: np.ndarray, origin: Origin) -> np.ndarray:
    array = tensor.theirs(leaf).astype(origin.dtypes[tensor.name])
    before = origin.wide.get(tensor.name)
    if before is None or leaf.dtype == before.dtype:
        return array
    return np.where(before.astype(leaf.dtype) == array, before, array)


def _exported(classifier: Classifier, naming: str) -> Origin:
    """The origin of a model that was made here."""
    made = classifier.initialise
    if not isinstance(made, models.Initialise):
        raise InvalidArgumentError(
            "origin",
            naming,
            "a naming serves classifiers of ignpx.models.create; give the origin that "
            "from_state_dict or load returned",
        )
    wanted = _layout(made.name, naming, classifier)
    keys: list[str] = []
    dtypes: dict[str, np.dtype] = {}
    others: dict[str, np.ndarray] = {}
    leaves = jax.tree.leaves((classifier.params, classifier.state))
    for one, leaf in zip(wanted.tensors.values(), leaves, strict=True):
        keys.append(one.name)
        dtypes[one.name] = leaf.dtype
        if one.name.endswith(_VARIANCE):
            counter = one.name.removesuffix(_VARIANCE) + arrays.COUNTER
            keys.append(counter)
            others[counter] = np.zeros((), np.int64)
    return Origin(made.name, naming, "", tuple(keys), dtypes, others)


def _shapes(classifier: Classifier) -> dict[str, tuple[int, ...]]:
    arrays_ = (classifier.params, classifier.state)
    paths = [path for tree in arrays_ for path in targets.paths(tree)]
    return dict(zip(paths, map(jnp.shape, jax.tree.leaves(arrays_)), strict=True))


def _layout(arch: str, naming: str, classifier: Classifier) -> Layout:
    namings = NAMINGS[arch]
    if naming not in namings:
        raise InvalidArgumentError("naming", naming, f"of {arch}: {near_names(naming, namings)}")
    try:
        return layout(namings[naming], _shapes(classifier))
    except KeyError:
        raise InvalidArgumentError("classifier", type(classifier.apply), f"is no {arch}") from None


def _arrays(state_dict: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of a state dict, all of which must be some."""
    if not isinstance(state_dict, Mapping) or not all(isinstance(n, str) for n in state_dict):
        advice = "must be what `module.state_dict()` returns: tensors by their names"
        raise InvalidArgumentError("state_dict", checks.shortened(state_dict), advice)
    refused: dict[str, list[str]] = {}
    for name, value in state_dict.items():
        if said := arrays.refusal(value, name):
            refused.setdefault(said, []).append(name)
    if refused:
        listed = (f"{', '.join(names)} {said}" for said, names in refused.items())
        raise InvalidArgumentError("state_dict", len(state_dict), f"tensors; {'. '.join(listed)}")
    return {name: arrays.to_numpy(value) for name, value in state_dict.items()}


def _stripped(given: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], str]:
    """The arrays without a prefix of all their names, and the prefix."""
    prefix = ""
    while found := [
        one for one in PREFIXES if given and all(name.startswith(one) for name in given)
    ]:
        prefix += found[0]
        given = {name.removeprefix(found[0]): array for name, array in given.items()}
    if prefix:
        _warn(f"every key begins with {prefix!r}, which is left out here and written back")
    return given, prefix


def _warn(said: str) -> None:
    warnings.warn(said, ConversionWarning, stacklevel=4)


def _normalisation(given: Mapping[str, np.ndarray], fields: Mapping[str, Any]) -> Normalise:
    mean, std = (tuple(given[name].astype(float).ravel().tolist()) for name in NORMALISATION)
    made = Normalise(mean, std)
    if fields.get("preprocess", made) != made:
        advice = f"the model normalises its images itself, by {made}; leave preprocess out"
        raise InvalidArgumentError("preprocess", fields["preprocess"], advice)
    return made


def _most_alike(arch: str, made: Classifier, given: Mapping[str, np.ndarray]) -> str:
    """The naming that the most keys are of."""

    def shared(naming: str) -> int:
        tensors = _layout(arch, naming, made).tensors.values()
        return sum(one.name in given for one in tensors)

    return max(NAMINGS[arch], key=shared)


def _rows(kernel: np.ndarray | None) -> int | None:
    return None if kernel is None or kernel.ndim != 2 else len(kernel)


def _beside(name: str, arch: str) -> bool:
    """Whether a tensor is allowed that is no part of our model."""
    return name.endswith(f".{arrays.COUNTER}") or (name in NORMALISATION and arch in NORMALISING)


def _check_channels_last(input_shape: Any) -> None:
    shape = tuple(input_shape) if isinstance(input_shape, tuple | list) else ()
    if len(shape) == 3 and shape[0] <= 4 < shape[2]:
        advice = f"our models have their channels last; give {(*shape[1:], shape[0])}"
        raise InvalidArgumentError("input_shape", shape, advice)


def _check(arch: str, naming: str, wanted: Layout, used: Mapping[str, np.ndarray]) -> None:
    """Raises for tensors that are missing, too many, or of another shape or kind: all at once."""
    names = {one.name: one.shape for one in wanted.tensors.values()}
    faults = arrays.mismatches(names, used)
    if not faults:
        return
    parts = [*_reasons(arch, wanted, names, used), *faults]
    said = f"the tensors are not those of {arch} in the names of {naming}; {'; '.join(parts)}"
    raise InvalidArgumentError("arch", arch, said)


def _reasons(
    arch: str, wanted: Layout, names: Mapping[str, tuple[int, ...]], used: Mapping[str, np.ndarray]
) -> list[str]:
    """What a person should know before the list of tensors."""
    found = [said] if (said := explained(arch, set(used))) else []
    classes, stem = _rows(used.get(wanted.head)), used.get(wanted.stem)
    if classes not in (None, names[wanted.head][0]):
        found.append(f"the model has {classes} classes, not {names[wanted.head][0]}")
    window = names[wanted.stem][2:]
    if stem is not None and stem.shape[2:] != window:
        fits = {(7, 7): "resnet18", (3, 3): "cifar_resnet18"}.get(stem.shape[2:])
        also = f"; give arch={fits!r}" if arch in NORMALISING and fits else ""
        found.append(f"its first convolution has the window {stem.shape[2:]}, not {window}{also}")
    return found
