"""What to forget, and the data that come with it."""

import dataclasses
import enum
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ignpx._support import checks
from ignpx.errors import InvalidArgumentError
from ignpx.samples import Samples, check_labels


class Sees(enum.Flag):
    """The real data that a method is given."""

    NOTHING = 0
    FORGET = enum.auto()
    RETAIN = enum.auto()
    BOTH = FORGET | RETAIN


class Forgets(enum.Flag):
    """What a method can be asked to forget."""

    CLASSES = enum.auto()  # whole classes, named by their ids
    SAMPLES = enum.auto()  # a set of samples: a part of a class, or some of every class
    ANY = CLASSES | SAMPLES


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Request:
    """What to forget, and the data that comes with the request.

    The classes are masks rather than lists, so that a request is a pytree of arrays of fixed
    shapes and a method can be mapped over it: `jax.vmap` over `jnp.eye(num_classes, dtype=bool)`
    forgets each class in turn.

    Attributes:
      forget: `(num_classes,)` bool, the classes to forget; none of them if it is samples that are
        to be forgotten.
      retain: `(num_classes,)` bool, the classes to keep. A class in neither is one that the model
        has forgotten before.
      forget_data: samples of what is to be forgotten, or None.
      retain_data: samples of what is to be kept, or None.
    """

    forget: jax.Array
    retain: jax.Array
    forget_data: Samples | None = None
    retain_data: Samples | None = None

    @classmethod
    def classes(
        cls,
        forget: Sequence[int],
        num_classes: int,
        *,
        forgotten: Sequence[int] = (),
        forget_data: Samples | None = None,
        retain_data: Samples | None = None,
    ) -> "Request":
        """A request to forget whole classes.

        Args:
          forget: class ids, each once: a list, an array, any other sequence of whole numbers.
          num_classes: of the classifier.
          forgotten: class ids that the model has forgotten already.
          forget_data: see the class.
          retain_data: see the class.

        Raises:
          InvalidArgumentError: if a class is unknown, repeated or already forgotten, or if no class
            would be left.
        """
        checks.whole(num_classes=num_classes)
        forget = checks.class_ids("forget", forget, num_classes)
        forgotten = checks.class_ids("forgotten", forgotten, num_classes)
        if not forget:
            raise InvalidArgumentError("forget", forget, "name at least one class")
        if len(set(forget)) < len(forget):
            raise InvalidArgumentError("forget", forget, "names a class twice; name each once")
        if again := sorted(set(forget) & set(forgotten)):
            raise InvalidArgumentError(
                "forget", forget, f"the model has already forgotten {again}; name other classes"
            )
        if len(set(forget) | set(forgotten)) == num_classes:
            raise InvalidArgumentError(
                "forget",
                forget,
                "leaves no class to retain; a model of nothing needs no unlearning",
            )
        mask = np.zeros((2, num_classes), bool)
        mask[0, forget] = True
        mask[1] = True
        mask[1, forget + forgotten] = False
        return cls(jnp.asarray(mask[0]), jnp.asarray(mask[1]), forget_data, retain_data)

    @classmethod
    def samples(
        cls,
        num_classes: int,
        forget_data: Samples,
        retain_data: Samples | None = None,
        *,
        forgotten: Sequence[int] = (),
    ) -> "Request":
        """A request to forget samples that are not whole classes, which all stay.

        Args:
          num_classes: of the classifier.
          forget_data: what to forget: a part of a class, or samples drawn at random.
          retain_data: the rest of the training samples, or None.
          forgotten: class ids that the model has forgotten already.

        Raises:
          InvalidArgumentError: if a class is unknown.
        """
        checks.whole(num_classes=num_classes)
        forgotten = checks.class_ids("forgotten", forgotten, num_classes)
        if forget_data is None:
            raise InvalidArgumentError("forget_data", None, "give the samples to forget")
        mask = np.ones(num_classes, bool)
        mask[forgotten] = False
        return cls(jnp.zeros(num_classes, bool), jnp.asarray(mask), forget_data, retain_data)

    @property
    def asks(self) -> Forgets:
        """Whether whole classes are to be forgotten or samples; not under `jit`."""
        return Forgets.CLASSES if bool(self.forget.any()) else Forgets.SAMPLES

    def granted(self, sees: Sees) -> "Request":
        """The request with only the data that a method which `sees` this much is given.

        Raises:
          InvalidArgumentError: if the method needs data that the request does not carry, that have
            labels which are no classes, or that hold or lack a class against what is asked for.
        """
        granted: dict[str, Any] = {}
        for name, part in (("forget_data", Sees.FORGET), ("retain_data", Sees.RETAIN)):
            data = getattr(self, name)
            if part in sees and data is None:
                raise InvalidArgumentError(
                    name, None, "the method needs these samples; put them into the request"
                )
            granted[name] = None
            if part in sees:
                granted[name] = check_labels(data, len(self.forget), name)
                self._check_held(granted[name].labels, name)
        return dataclasses.replace(self, **granted)

    def check(self, num_classes: int) -> None:
        """Raises `InvalidArgumentError` unless its masks fit so many classes and each other.

        Under `jit` and `vmap` their values cannot be looked at.
        """
        for name in ("forget", "retain"):
            mask = getattr(self, name)
            if not (isinstance(mask, np.ndarray | jax.Array) and mask.dtype == bool):
                raise InvalidArgumentError(
                    f"request.{name}",
                    checks.shortened(mask),
                    "must be an array of bool, one value a class; Request.classes makes it",
                )
            if mask.shape != (num_classes,):
                raise InvalidArgumentError(
                    f"request.{name}",
                    mask.shape,
                    f"is for another number of classes; the classifier has {num_classes}",
                )
        if checks.traced((self.forget, self.retain)):
            return
        forget, retain = np.asarray(self.forget), np.asarray(self.retain)
        if (both := np.flatnonzero(forget & retain)).size:
            raise InvalidArgumentError(
                "request.retain", both.tolist(), "are to be forgotten as well; retain other classes"
            )
        if not retain.any():
            raise InvalidArgumentError("request.retain", [], "leaves no class to retain")
        if not forget.any() and self.forget_data is None:
            raise InvalidArgumentError(
                "request.forget", [], "asks for nothing; name classes, or give forget_data"
            )

    def _check_held(self, labels: Any, name: str) -> None:
        """Raises unless data hold the classes that they are for, and no others."""
        if checks.traced((self.forget, self.retain, labels)):
            return
        forget, retain = np.asarray(self.forget), np.asarray(self.retain)
        held = np.bincount(np.asarray(labels), minlength=len(forget)) > 0
        if name == "retain_data":
            allowed, needed, remedy = retain, np.zeros_like(retain), "ignpx.data.retained"
        elif forget.any():
            allowed, needed, remedy = forget, forget, "ignpx.data.only"
        else:
            return  # samples to forget may be of any class
        if (missing := np.flatnonzero(needed & ~held)).size:
            raise InvalidArgumentError(
                name, missing.tolist(), "are to be forgotten and have no sample in it; add some"
            )
        if (wrong := np.flatnonzero(held & ~allowed)).size:
            raise InvalidArgumentError(
                name,
                wrong.tolist(),
                f"are classes that it must not hold in this request; {remedy} leaves them out",
            )
