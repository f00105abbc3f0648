"""What is prepared of many classes, in parts: written as they are made, read as they are needed.

The parts of a run lie in a folder that is named after all that they are made by:

    prepared_parts/DIGEST/0000/inputs     the inputs of the first part
    prepared_parts/DIGEST/0000/rest       what else is prepared of it, written last
"""

import dataclasses
import functools
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

INPUTS, REST = "inputs", "rest"


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
        each = (self._kept(n, in_parts, classifier, key) for n in range(len(self.parts)))
        return functools.reduce(lambda one, other: in_parts.join([one, other]), each)

    def laid_out(self, prepared: Any) -> Any:
        """What `filled` returned, with inputs that are read from the files.

        Raises:
          InvalidArgumentError: if a part is missing.
        """
        if missing := self.missing():
            raise self._unusable(missing[0], INPUTS, "is missing")
        counts = len(np.concatenate(self.parts)), *self.inputs(0).shape[1:]
        return _replaced(prepared, Shards(self.parts, counts, self.inputs))

    def missing(self) -> list[int]:
        """The numbers of the parts that are not there."""
        return [n for n in range(len(self.parts)) if not self._place(n, INPUTS).is_dir()]

    def inputs(self, number: int) -> jax.Array:
        """The inputs `(K, n, *input_shape)` of a part.

        Raises:
          InvalidArgumentError: if it is missing, damaged, or of another model or other settings.
        """
        return self._read(number, INPUTS)[0]

    def alone(self) -> None:
        """Removes the parts of whatever else was prepared of the run."""
        for other in self.folder.parent.glob("*"):
            if other != self.folder:
                shutil.rmtree(other, ignore_errors=True)

    def _kept(self, number: int, in_parts: InParts, classifier: Classifier, key: jax.Array) -> Any:
        if self._place(number, REST).exists():
            try:
                self.inputs(number)
                return self._read(number, REST)
            except InvalidArgumentError as error:
                warnings.warn(f"made anew: {error}", RecoveryWarning, stacklevel=2)
        made = in_parts.part(classifier, key, self.parts[number])
        rest = _replaced(made, None)
        self._write(number, INPUTS, [_prototypes(made).inputs])
        self._write(number, REST, rest)
        return rest

    def _place(self, number: int, name: str) -> pathlib.Path:
        return self.folder / f"{number:04d}" / name

    def _described(self, number: int) -> dict[str, Any]:
        return {**self.about, "classes": self.parts[number].tolist()}

    def _write(self, number: int, name: str, tree: Any) -> None:
        described = {**self._described(number), "structure": structures.encode(tree)}
        place = self._place(number, name)
        checkpoint.save_tree(place, jax.tree.leaves(tree), described, overwrite=True)

    def _read(self, number: int, name: str) -> Any:
        place = self._place(number, name)
        if not place.is_dir():
            raise self._unusable(number, name, "is missing")
        try:
            described = checkpoint.load_config(place)
            like: Any = jax.tree.structure(structures.decode(described.pop("structure", "none")))
            leaves = checkpoint.load_leaves(place, like.num_leaves)
        except InvalidArgumentError as error:
            raise self._unusable(number, name, f"is damaged: {error}") from error
        wanted = self._described(number)
        if other := [one for one in wanted if described.get(one) != wanted[one]]:
            raise self._unusable(number, name, f"is of another {', '.join(other)}")
        return jax.tree.unflatten(like, leaves)

    def _unusable(self, number: int, name: str, why: str) -> InvalidArgumentError:
        return InvalidArgumentError(
            "prepared",
            str(self._place(number, name)),
            f"part {number + 1} of {len(self.parts)} {why}; remove what is left of it, and prepare "
            "with the same settings again, which makes this part alone",
        )


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
