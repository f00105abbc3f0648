"""What is prepared of many classes, in parts: written as they are made, read as they are needed.

The parts of a run lie in a folder that is named after all that they are made by:

    prepared_parts/DIGEST/0000    the inputs of the first part
    prepared_parts/DIGEST/sum     what else is prepared of the parts so far, written after each
"""

import dataclasses
import hashlib
import json
import pathlib
import shutil
import warnings
from typing import Any

import jax
import numpy as np

from ignpx.classifier import Classifier
from ignpx.errors import InvalidArgumentError, RecoveryWarning
from ignpx.experiments import checkpoint, structures, workdir
from ignpx.steps.parts import Shards
from ignpx.synthesis import Prototypes
from ignpx.unlearner import InParts

SUM = "sum"


@dataclasses.dataclass(frozen=True)
class Shelf:
    """The parts of what is prepared.

    Attributes:
      folder: of the parts.
      about: everything that they are made by, JSON values.
      parts: the class ids of each part.
    """

    folder: pathlib.Path
    about: dict[str, Any]
    parts: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, directory: pathlib.Path, about: dict[str, Any], parts: list[list[int]]) -> "Shelf":
        """That in the directory of a run."""
        digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
        folder = directory / workdir.PREPARED_PARTS / digest[:16]
        return cls(folder, about, tuple(np.array(classes) for classes in parts))

    def filled(self, in_parts: InParts, classifier: Classifier, key: jax.Array) -> Any:
        """What is prepared of all parts but for their inputs; makes those that are not there.

        Warns:
          RecoveryWarning: if a part is damaged; it is made anew.
        """
        total, done = self._sum()
        for number, classes in enumerate(self.parts):
            if number < done and self._sound(number):
                continue
            made = in_parts.part(classifier, key, classes)
            self._write(number, [_prototypes(made).inputs], {"classes": classes.tolist()})
            if number >= done:
                # By NumPy: JAX would compile the join anew for each number of classes, and keep it.
                rest = jax.tree.map(checkpoint.on_host, _replaced(made, None))
                total = rest if total is None else in_parts.join([total, rest])
                self._write(SUM, total, {"done": number + 1})
        return total

    def laid_out(self, prepared: Any) -> Any:
        """What `filled` returned, with inputs that are read from the files.

        Raises:
          InvalidArgumentError: if a part is missing.
        """
        if missing := self.missing():
            raise self._unusable(missing[0], "is missing")
        counts = len(np.concatenate(self.parts)), *self.inputs(0).shape[1:]
        return _replaced(prepared, Shards(self.parts, counts, self.inputs))

    def missing(self) -> list[int]:
        """The numbers of the parts that are not there."""
        return [n for n in range(len(self.parts)) if not self._place(n).is_dir()]

    def inputs(self, number: int) -> jax.Array:
        """The inputs `(K, n, *input_shape)` of a part.

        Raises:
          InvalidArgumentError: if it is missing, damaged, or of another model or other settings.
        """
        wanted = {"classes": self.parts[number].tolist()}
        if not self._place(number).is_dir():
            raise self._unusable(number, "is missing")
        try:
            return self._read(number, wanted)[0]
        except InvalidArgumentError as error:
            raise self._unusable(number, error.advice) from error

    def alone(self) -> None:
        """Removes the parts of whatever else was prepared of the run."""
        for other in self.folder.parent.glob("*"):
            if other != self.folder:
                shutil.rmtree(other, ignore_errors=True)

    def _sum(self) -> tuple[Any, int]:
        """What is prepared of the first parts, and the number of those."""
        if not self._place(SUM).is_dir():
            return None, 0
        try:
            done = checkpoint.load_config(self._place(SUM))["done"]
            return jax.tree.map(checkpoint.on_host, self._read(SUM, {"done": done})), done
        except (InvalidArgumentError, KeyError) as error:
            self._warn(error)
            return None, 0

    def _sound(self, number: int) -> bool:
        """Whether a part is there, to the bit."""
        try:
            return self._place(number).is_dir() and self.inputs(number) is not None
        except InvalidArgumentError as error:
            self._warn(error)
            return False

    def _place(self, name: int | str) -> pathlib.Path:
        return self.folder / (name if isinstance(name, str) else f"{name:04d}")

    def _write(self, name: int | str, tree: Any, of: dict[str, Any]) -> None:
        described = {**self.about, **of, "structure": structures.encode(tree)}
        checkpoint.save_tree(self._place(name), jax.tree.leaves(tree), described, overwrite=True)

    def _read(self, name: int | str, of: dict[str, Any]) -> Any:
        described, wanted = checkpoint.load_config(self._place(name)), {**self.about, **of}
        if other := [one for one in wanted if described.get(one) != wanted[one]]:
            raise InvalidArgumentError("prepared", str(name), f"is of another {', '.join(other)}")
        like: Any = jax.tree.structure(structures.decode(described.get("structure", "none")))
        return jax.tree.unflatten(like, checkpoint.load_leaves(self._place(name), like.num_leaves))

    def _unusable(self, number: int, why: str) -> InvalidArgumentError:
        return InvalidArgumentError(
            "prepared",
            str(self._place(number)),
            f"part {number + 1} of {len(self.parts)} {why}; remove what is left of it, and prepare "
            "with the same settings again, which makes this part alone",
        )

    @staticmethod
    def _warn(error: Exception) -> None:
        warnings.warn(f"made anew: {error}", RecoveryWarning, stacklevel=4)


def _prototypes(prepared: Any) -> Prototypes:
    """The prototypes within what is prepared."""
    nodes = jax.tree.leaves(prepared, is_leaf=_are_prototypes)
    return next(node for node in nodes if _are_prototypes(node))


def _replaced(prepared: Any, inputs: Any) -> Any:
    """What is prepared with other inputs of its prototypes."""
    return jax.tree.map(
        lambda node: node._replace(inputs=inputs) if _are_prototypes(node) else node,
        prepared,
        is_leaf=_are_prototypes,
    )


def _are_prototypes(node: Any) -> bool:
    return isinstance(node, Prototypes)
