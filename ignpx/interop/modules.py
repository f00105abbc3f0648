"""PyTorch modules of any architecture as classifiers: their exported graphs, evaluated in JAX."""

import contextlib
import dataclasses
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from ignpx import targets
from ignpx._support import checks
from ignpx.adapters import inspection
from ignpx.adapters.module import ModuleApply
from ignpx.adapters.observing import Watch
from ignpx.classifier import Classifier, Preprocess, identity, validated
from ignpx.errors import ConversionWarning, InvalidArgumentError, UnlearningWarning
from ignpx.interop import arrays
from ignpx.interop.aten import OPERATIONS
from ignpx.interop.graphs import Program, Step, Value
from ignpx.targets import PyTree

# The state that holds tensors which are written in the code of the module.
CONSTANTS = "__constants__"
EVALUATING = (
    "a module of PyTorch stays in evaluation mode while a method trains it: batch norms keep their "
    "statistics, and nothing is dropped"
)


@dataclasses.dataclass(frozen=True)
class TorchApply(ModuleApply):
    """A PyTorch module in evaluation mode.

    Attributes:
      program: what it computes.
      keys: name, path and dtype of each tensor of its state dict, in their order. Tensors that are
        one, as tied weights are, have one path.
    """

    program: Program
    keys: tuple[tuple[str, str, str], ...]

    @property
    def channels_first(self) -> bool:
        """Inputs that are images are `(channels, H, W)`."""
        return True

    def variables(self, params: PyTree, state: PyTree) -> dict[str, jax.Array]:
        """The state dict as arrays; `ignpx.interop.to_state_dict` makes tensors of them."""
        found = _by_path((params, state))
        return {name: found[path] for name, path, _ in self.keys}

    def _run(
        self,
        params: PyTree,
        state: PyTree,
        inputs: jax.Array,
        *,
        train: bool,
        watch: Watch = None,
    ) -> tuple[Any, PyTree]:
        if train:
            warnings.warn(EVALUATING, UnlearningWarning, stacklevel=2)
        logits = self.program(_by_path((params, state)), inputs, watch)
        return (logits if self.logits is None else self.logits(logits)), state


def from_torch(
    module: Any, *, input_shape: tuple[int, ...], num_classes: int, **fields: Any
) -> Classifier:
    """Takes a PyTorch module whose `forward` maps a batch of inputs to logits.

    The module is exported by `torch.export` in evaluation mode, and JAX evaluates the operations of
    the graph. Parameters have their names in PyTorch, with slashes for dots. The pattern
    `layer4.0.conv1` also finds `layer4/0/conv1/weight`. Weights and inputs keep PyTorch's layouts:

        classifier = interop.from_torch(module, input_shape=(3, 32, 32), num_classes=10)
        forgetful, info = ignpx.unlearn(method, classifier, request, key)
        module.load_state_dict(interop.to_state_dict(forgetful))

    Gradients are those of PyTorch's operations, also at corners of functions. A `backward` of the
    module's own is not seen.

    Batch norm keeps its running statistics and dropout is off, also in methods that train; they
    warn of it. Methods that edit the last layer by its classes need it to have them as its last
    axis, and PyTorch's has them first: they refuse the classifier.

    Args:
      module: the module; it is not changed, and not referred to afterwards.
      input_shape: of one preprocessed input, as the module takes it: `(3, 32, 32)`.
      num_classes: width of the logits.
      **fields: `preprocess` and `targets` of the `Classifier`; see also `ChannelsFirst`.

    Raises:
      InvalidArgumentError: if the module cannot be exported, as with control flow that depends on
        values, or has operations that are not in `ignpx.interop.aten`; all are named.

    Warns:
      ConversionWarning: if its tensors are float64, and JAX computes in float32.
    """
    torch = arrays.imported("torch")
    if not isinstance(module, torch.nn.Module):
        advice = "must be a module of PyTorch, such as torchvision.models.resnet18()"
        raise InvalidArgumentError("module", checks.shortened(module), advice)
    if any(".quantized" in type(part).__module__ for part in module.modules()):
        raise InvalidArgumentError("module", _kind(module), arrays.QUANTISED)
    fields = inspection.fields({"input_shape": input_shape, "num_classes": num_classes, **fields})
    tensors = {**_named(module.named_parameters), **_named(module.named_buffers)}
    if refused := {name: said for name, one in tensors.items() if (said := arrays.refusal(one))}:
        listed = "; ".join(f"{name} {said}" for name, said in refused.items())
        raise InvalidArgumentError("module", _kind(module), listed)
    with _evaluating(module):
        program, constants = _exported(module, tensors, fields["input_shape"])
    return _classifier(module, program, tensors, constants, fields)


def _classifier(
    module: Any,
    program: Program,
    tensors: Mapping[str, Any],
    constants: Mapping[str, Any],
    fields: Mapping[str, Any],
) -> Classifier:
    # Tensors that are one have the path of the first.
    first: dict[int, str] = {}
    for name, tensor in tensors.items():
        first.setdefault(id(tensor), name)
    paths = {name: _path(first[id(tensor)]) for name, tensor in tensors.items()}
    renamed = {_path(name): paths[name] for name in tensors}
    program = dataclasses.replace(
        program,
        arrays=tuple((name, renamed.get(path, path)) for name, path in program.arrays),
    )
    used = {path for _, path in program.arrays}
    trained = {_path(name) for name, _ in module.named_parameters()} & used
    found = {paths[name]: _array(name, tensor) for name, tensor in tensors.items()}
    found |= {f"{CONSTANTS}/{name}": _array(name, one) for name, one in constants.items()}
    keys = tuple(
        (name, paths[name], str(arrays.to_numpy(tensor).dtype))
        for name, tensor in module.state_dict(keep_vars=True).items()
    )
    if any(str(found[path].dtype) != dtype == "float64" for _, path, dtype in keys):
        said = "the tensors are float64, and JAX computes in float32"
        warnings.warn(said, ConversionWarning, stacklevel=3)
    made = Classifier(
        params=_nested({path: one for path, one in found.items() if path in trained}),
        state=_nested({path: one for path, one in found.items() if path not in trained}),
        apply=TorchApply(program=program, keys=keys),
        **fields,
    )
    return validated(made, "module", type(module))


def _array(name: str, tensor: Any) -> jax.Array:
    array = arrays.to_numpy(tensor)
    made = jnp.asarray(array)
    if made.dtype != array.dtype and made.dtype.kind in "iu" and array.size:
        known, low, high = jnp.iinfo(made.dtype), array.min(), array.max()
        if low < known.min or high > known.max:
            advice = f"is beyond the {made.dtype} that JAX computes with"
            raise InvalidArgumentError(name, int(max(high, -low)), advice)
    return made


def _named(listed: Any) -> dict[str, Any]:
    return dict(listed(remove_duplicate=False))


def _path(name: str) -> str:
    return name.replace(".", "/")


def _nested(by_path: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, array in by_path.items():
        *modules, last = path.split("/")
        node = tree
        for name in modules:
            node = node.setdefault(name, {})
        node[last] = array
    return tree


def _by_path(tree: PyTree) -> dict[str, jax.Array]:
    """The arrays of parameters and state, by their paths."""
    return {
        path: leaf
        for part in tree
        for path, leaf in zip(targets.paths(part), jax.tree.leaves(part), strict=True)
    }


def _kind(module: Any) -> str:
    return f"{type(module).__module__}.{type(module).__qualname__}"


@contextlib.contextmanager
def _evaluating(module: Any) -> Iterator[None]:
    """The module and its parts in evaluation mode, and then in the modes that they had."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode


@contextlib.contextmanager
def _without_fast_path(torch: Any) -> Iterator[None]:
    """Attention by its usual operations, and not by the one that serves evaluation alone."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def _exported(
    module: Any, tensors: Mapping[str, Any], input_shape: tuple[int, ...]
) -> tuple[Program, dict[str, Any]]:
    """The program of a module, and the tensors in it that are no part of the module."""
    torch = arrays.imported("torch")
    floating = [one for one in tensors.values() if one.is_floating_point()]
    like = floating[0] if floating else torch.zeros(())
    example = torch.zeros((2, *input_shape), dtype=like.dtype, device=like.device)
    batch = {0: torch.export.Dim("batch")}
    try:
        with warnings.catch_warnings(), _without_fast_path(torch):
            warnings.simplefilter("ignore")
            exported = torch.export.export(module, (example,), dynamic_shapes=(batch,))
            table = torch.export.default_decompositions()
            for operation in [one for one in table if _name(one) in OPERATIONS]:
                table.pop(operation)
            exported = exported.run_decompositions(table)
    except Exception as error:  # whatever a module and its export may raise
        raise _not_exported(module, input_shape, error) from error
    return _frozen(module, exported)


def _not_exported(
    module: Any, input_shape: tuple[int, ...], error: Exception
) -> InvalidArgumentError:
    text, kind = " ".join(str(error).split()), type(error).__name__
    dependent = "DataDependent" in kind or "data-dependent" in text
    if dependent or "control flow" in text or "Constraints violated" in text:
        advice = (
            "has control flow that depends on the values of its inputs or on the size of the "
            "batch, which no graph holds; write it by torch.where, or leave the batch's size open"
        )
        return InvalidArgumentError("module", _kind(module), advice)
    return InvalidArgumentError(
        "module",
        _kind(module),
        f"cannot be exported for inputs of the shape {input_shape}: {kind}: {text[:300]}",
    )


def _frozen(module: Any, exported: Any) -> tuple[Program, dict[str, Any]]:
    signature, torch = exported.graph_signature, arrays.imported("torch")
    nodes = list(exported.graph.nodes)
    unknown = {
        _name(node.target)
        for node in nodes
        if node.op == "call_function" and _name(node.target) not in OPERATIONS
    }
    if unknown or signature.buffers_to_mutate:
        listed = sorted(unknown) or [f"writes to {one}" for one in _mutated(signature)]
        advice = f"has operations that are not translated: {', '.join(listed)}"
        raise InvalidArgumentError("module", _kind(module), advice)
    constants = dict(signature.inputs_to_lifted_tensor_constants)
    own = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    places = {name: _path(target) for name, target in own.items()}
    places |= {name: f"{CONSTANTS}/{name}" for name in constants}
    read = {node.name for node in nodes if node.op == "placeholder" and node.users}
    outputs = next(node for node in nodes if node.op == "output").args[0]
    if len(signature.user_inputs) != 1 or len(outputs) != 1:
        advice = (
            f"has {len(signature.user_inputs)} inputs and {len(outputs)} outputs; wrap it in a "
            "module whose `forward` maps one batch of inputs to the logits alone"
        )
        raise InvalidArgumentError("module", _kind(module), advice)
    program = Program(
        arrays=tuple((name, path) for name, path in places.items() if name in read),
        image=signature.user_inputs[0],
        steps=tuple(_step(node, torch) for node in nodes if node.op == "call_function"),
        output=Value(outputs[0].name),
    )
    values = {name: exported.constants[target] for name, target in constants.items()}
    return program, {name: value for name, value in values.items() if name in read}


def _mutated(signature: Any) -> list[str]:
    return list(signature.buffers_to_mutate.values())


def _name(target: Any) -> str:
    """The name of an operation of a graph, without its overload."""
    text = str(target)
    if "." in text and not text.startswith("<"):
        return text.rpartition(".")[0] if text.count(".") > 1 else text
    module = getattr(target, "__module__", "").lstrip("_")
    return f"{module}.{getattr(target, '__name__', text)}"


def _step(node: Any, torch: Any) -> Step:
    named = tuple((name, _argument(one, torch)) for name, one in node.kwargs.items())
    return Step(node.name, _name(node.target), _argument(node.args, torch), named)


def _argument(one: Any, torch: Any) -> Any:
    """An argument as a value without PyTorch."""
    if isinstance(one, torch.fx.Node):
        return Value(one.name)
    if isinstance(one, list | tuple):
        return tuple(_argument(part, torch) for part in one)
    if isinstance(one, torch.dtype):
        return str(one).removeprefix("torch.")
    if one is None or isinstance(one, bool | int | float | str):
        return one
    return str(one)  # a device or a memory format, which JAX has its own of


@dataclasses.dataclass(frozen=True)
class ChannelsFirst:
    """A preprocessing whose inputs have their channels first, as PyTorch's models take them.

    Attributes:
      inner: the preprocessing of images `(N, H, W, channels)`, such as `ignpx.data.Normalise`.
    """

    inner: Preprocess = identity

    def __call__(self, images: jax.Array) -> jax.Array:
        """Inputs `(N, channels, H, W)` of images `(N, H, W, channels)`."""
        return jnp.moveaxis(self.inner(images), -1, 1)

    @property
    def bounds(self) -> tuple[jax.Array, jax.Array] | None:
        """The smallest and the largest input of an image, `(channels, 1, 1)` each."""
        bounds = getattr(self.inner, "bounds", None)
        return None if bounds is None else tuple(one[:, None, None] for one in bounds)
