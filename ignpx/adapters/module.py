"""What the Flax modules of either kind share as a model."""

import dataclasses
import functools
from collections.abc import Callable, Hashable, Mapping
from typing import Any, Self

import jax
from flax import linen

from ignpx import _xla
from ignpx.adapters import observing
from ignpx.adapters.observing import NormStatistics
from ignpx.adapters.precision import InPrecision
from ignpx.errors import InvalidArgumentError
from ignpx.targets import PyTree


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ModuleApply:
    """A Flax module, by how one call of it runs.

    Lists, dicts and arrays may be among the attributes of the module, which have no hash.

    Attributes:
      logits: maps the output of the module to its logits; None if the output is the logits.
      positional: see `ignpx.adapters.calls.arguments`.
      held: see `holding`.
      narrow: layers with state return the dtype of their inputs.
    """

    logits: Callable[[Any], jax.Array] | None = None
    positional: bool = False
    held: frozenset[str] = frozenset()
    narrow: bool = False

    @functools.cached_property
    def _key(self) -> Hashable:
        return type(self), *(_key(getattr(self, one.name)) for one in dataclasses.fields(self))

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ModuleApply) and self._key == other._key

    def holding(self, paths: frozenset[str]) -> Self:
        """The same model, with some batch-norm layers in evaluation mode also while training.

        Args:
          paths: paths of the running statistics of these layers in the state, as
            `ignpx.targets.paths` returns them.
        """
        return dataclasses.replace(self, held=paths)

    def computing_in(self, precision: str) -> InPrecision:
        """See `ignpx.Classifier.computing_in`."""
        return InPrecision(dataclasses.replace(self, narrow=True), precision)

    def __call__(
        self, params: PyTree, state: PyTree, inputs: jax.Array, *, train: bool
    ) -> tuple[jax.Array, PyTree]:
        """See `ignpx.classifier.Apply`.

        Raises:
          InvalidArgumentError: if batch norm averages over devices, which are not mapped here.
        """
        try:
            return self._run(params, state, inputs, train=train)
        except NameError as error:
            if "unbound axis name" not in str(error):
                raise
            raise InvalidArgumentError(
                "classifier",
                type(self),
                f"cannot be trained here ({str(error).partition(chr(10))[0]}): build the module "
                "without `axis_name`, or take a method that does not train",
            ) from error

    def with_statistics(
        self, params: PyTree, state: PyTree, inputs: jax.Array
    ) -> tuple[jax.Array, list[NormStatistics]]:
        """See `ignpx.Classifier.with_statistics`."""
        run = functools.partial(self._run, train=False, watch="statistics")
        (logits, _), found = _xla.observed(run)(params, state, inputs)
        return logits, observing.statistics(found)

    def observed(
        self, params: PyTree, state: PyTree, inputs: jax.Array, *, train: bool
    ) -> tuple[jax.Array, PyTree, list[jax.Array]]:
        """See `ignpx.Classifier.observed`."""
        run = functools.partial(self._run, train=train, watch="outputs")
        (logits, after), found = _xla.observed(run)(params, state, inputs)
        return logits, after if train else state, observing.maps(found)

    def _run(
        self,
        params: PyTree,
        state: PyTree,
        inputs: jax.Array,
        *,
        train: bool,
        watch: observing.Watch = None,
    ) -> tuple[Any, PyTree]:
        """Logits and the new state; the layers tag what is watched."""
        raise NotImplementedError


def _key(value: Any) -> Hashable:
    """A key that is equal for modules of the same kind with equal attributes."""
    if isinstance(value, linen.Module):
        names = [field.name for field in dataclasses.fields(value) if field.name != "parent"]
        return type(value), *(_key(getattr(value, name)) for name in names)
    if isinstance(value, list | tuple):
        return type(value), *map(_key, value)
    if isinstance(value, Mapping):
        return type(value), tuple(value), *map(_key, value.values())
    try:
        hash(value)
    except TypeError:
        return _xla.identity(value)
    return type(value), value
