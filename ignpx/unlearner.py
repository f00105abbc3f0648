"""What a method is, and the call that holds it to what it may see and must leave alone."""

import enum
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from ignpx import stages, targets
from ignpx._support import checks
from ignpx.classifier import Classifier, check_handle
from ignpx.errors import InvalidArgumentError, UnlearningError
from ignpx.request import Forgets, Request, Sees
from ignpx.samples import check


class Changes(enum.Flag):
    """What a method may change of a classifier."""

    TARGETS = enum.auto()
    OTHER_LAYERS = enum.auto()
    STATE = enum.auto()
    ALL = TARGETS | OTHER_LAYERS | STATE


class Info(Protocol):
    """Diagnostics of a method: a NamedTuple of arrays that can judge itself."""

    def check(self, request: Request) -> None:
        """Raises `UnlearningError` with the figures if the method failed; warns of doubts."""

    def summary(self) -> dict[str, Any]:
        """The figures worth keeping, as JSON values."""


class Unlearn(Protocol):
    """How a method forgets."""

    # With both of Any, other parameters after the key are up to the method, typing's spec says.
    def __call__(
        self,
        classifier: Classifier,
        request: Request,
        key: jax.Array,
        /,
        *prepared: Any,
        **_: Any,
    ) -> tuple[Classifier, Any]:
        """A pure function, which checks nothing and leaves its arguments alone.

        Args:
          classifier: the model.
          request: what to forget, with the data that the method `sees`.
          key: PRNG key.
          *prepared: the method of an `Unlearner` with `prepare` takes what was prepared, None for
            nothing. With the same key it gives what it gives without, up to rounding. Others take
            no fourth argument.

        Returns:
          The classifier that has forgotten, and an `Info`, diagnostics that say whether it did.
        """


class Prepare(Protocol):
    """What a method can do of a model before it is asked to forget anything of it."""

    def __call__(self, classifier: Classifier, key: jax.Array, /) -> Any:
        """A pure function.

        Args:
          classifier: the model.
          key: PRNG key, the one of the requests to come.

        Returns:
          A pytree with the classifier's `fingerprint` as its attribute `made_of`.
        """


class InParts(Protocol):
    """`Prepare`, a part of the classes at a time: memory does not grow with their number."""

    def parts(self, classifier: Classifier, /) -> Sequence[np.ndarray]:
        """The class ids `(K,)` of each part."""

    def part(self, classifier: Classifier, key: jax.Array, classes: np.ndarray, /) -> Any:
        """What is prepared of a part: a pure function, of the key that all parts have."""

    def join(self, parts: Sequence[Any], /) -> Any:
        """What `prepare` returns, from all parts, to rounding."""


class Unlearner(NamedTuple):
    """A method with its hyperparameters settled, as built by a factory such as `methods.ignp`.

    Attributes:
      sees: the real data that it is given; a data-free method sees `Sees.NOTHING`.
      unlearn: forgets, see `Unlearn`.
      changes: what it may change of the classifier; everything else comes back to the bit.
      forgets: the requests that it can serve.
      prepare: does what does not depend on the request, where there is such a thing; see `Prepare`.
      in_parts: the same for a part of the classes, where that can be; see `InParts`.
    """

    sees: Sees
    unlearn: Unlearn
    changes: Changes = Changes.TARGETS
    forgets: Forgets = Forgets.CLASSES
    prepare: Prepare | None = None
    in_parts: InParts | None = None


class Build(Protocol):
    """How a method is built from its name, see `ignpx.methods.build`."""

    def __call__(
        self, method: str, settings: dict[str, Any], recipe: dict[str, Any] | None = None, /
    ) -> Unlearner:
        """Builds the method."""


_BUILDS: list[Build] = []


def built_by(build: Build) -> Build:
    """Makes a function known to `by_name`: a decorator."""
    _BUILDS[:] = [build]
    return build


def by_name(
    method: str, settings: dict[str, Any], recipe: dict[str, Any] | None = None
) -> Unlearner:
    """Builds a method from its name where `ignpx.methods`, which stands above, is not imported.

    An attacker who knows the method is a measurement that needs this; nothing else does.

    Raises:
      InvalidArgumentError: as `ignpx.methods.build`, or if nobody has imported that package yet.
    """
    if not _BUILDS:
        raise InvalidArgumentError("method", method, "import ignpx.methods first, which knows them")
    return _BUILDS[0](method, settings, recipe)


def unlearn(
    unlearner: Unlearner,
    classifier: Classifier,
    request: Request,
    key: jax.Array,
    prepared: Any = None,
    *,
    on_stage: stages.Callback | None = None,
) -> tuple[Classifier, Any]:
    """Runs a method on nothing but what it may see, and turns its failures into exceptions.

    Args:
      unlearner: the method.
      classifier: the model; unchanged.
      request: what to forget; data that the method does not declare is withheld.
      key: PRNG key; the same key gives the same result, to the bit, on one device.
      prepared: what `unlearner.prepare` made of this classifier, to forget any class of it at a
        fraction of the time; None prepares anew.
      on_stage: told the name of each stage and the share of it that is done, see
        `ignpx.stages.reporting`.

    Returns:
      The classifier that has forgotten, and the method's diagnostics.

    Raises:
      InvalidArgumentError: if an argument is not what it should be, the classifier has parameters
        that are not finite, the request does not fit it, lacks data, has data that do not fit (see
        `ignpx.samples.check`), or is of a kind that the method cannot serve, or all this under
        `jit` or `vmap`, where `unlearner.unlearn` is to be called instead.
      UnlearningError: if the method failed; the message has the figures.
    """
    key = _check_arguments(unlearner, classifier, request, key)
    check_served(unlearner, request.asks)
    request = request.granted(unlearner.sees)
    for name in ("forget_data", "retain_data"):
        if (data := getattr(request, name)) is not None:
            check(data, classifier, name)
    if broken := _not_finite(classifier):
        raise InvalidArgumentError(
            "classifier", broken, "has values that are not finite; restore a sound checkpoint"
        )
    if prepared is not None:
        _check_prepared(unlearner, classifier, prepared)
    arguments = (classifier, request, key)
    # Optax's Adam mixes dtypes, and so does not run where JAX is told to refuse that.
    with stages.reporting(on_stage), jax.numpy_dtype_promotion("standard"):
        edited, info = unlearner.unlearn(*arguments, *([] if prepared is None else [prepared]))
    info.check(request)
    if broken := _not_finite(edited):
        raise UnlearningError(f"the edited parameters are not finite: {broken}")
    return edited, info


def unlearn_each(
    unlearner: Unlearner,
    classifier: Classifier,
    requests: Iterable[Request],
    key: jax.Array,
    prepared: Any = None,
    *,
    on_stage: stages.Callback | None = None,
) -> Iterator[tuple[Classifier, Any]]:
    """Serves many requests to one model, each from that model, and none after another.

    What the method can prepare is prepared once, before this returns. Requests of equal shapes (as
    many classes, as many samples) are compiled once. To forget a class and later another from the
    *result* is a chain of `unlearn`; an edited model is another model, and what was prepared of the
    first is refused. To forget both, ask for both of the first model: its preparation serves.

    Args:
      unlearner: the method.
      classifier: the model; unchanged.
      requests: what to forget; each is taken when its result is asked for.
      key: PRNG key of all of them: each result is that of `unlearn`, up to rounding where the
        method prepares.
      prepared: see `unlearn`.
      on_stage: see `unlearn`.

    Returns:
      An iterator of what `unlearn` returns, computed as it is asked for. A request that fails
      raises when its turn comes, and the next may still be asked for.

    Raises:
      InvalidArgumentError: see `unlearn`.
    """
    key = _check_method(unlearner, classifier, key)
    if prepared is None and unlearner.prepare is not None:
        with stages.reporting(on_stage), jax.numpy_dtype_promotion("standard"):
            prepared = unlearner.prepare(classifier, key)

    def serve(request: Request) -> tuple[Classifier, Any]:
        return unlearn(unlearner, classifier, request, key, prepared, on_stage=on_stage)

    return map(serve, requests)


def _check_prepared(unlearner: Unlearner, classifier: Classifier, prepared: Any) -> None:
    """Raises `InvalidArgumentError` unless it is what the method prepared of this classifier."""
    kind, made_of = checks.shortened(prepared), getattr(prepared, "made_of", None)
    if unlearner.prepare is None:
        raise InvalidArgumentError(
            "prepared", kind, "is of no use to this method, which prepares nothing"
        )
    if made_of is None:
        raise InvalidArgumentError(
            "prepared", kind, "must be what unlearner.prepare(classifier, key) returned"
        )
    if int(made_of) != int(classifier.fingerprint()):
        raise InvalidArgumentError(
            "prepared",
            kind,
            "was made of another classifier, such as this one before an edit; prepare this one, or "
            "ask the other to forget everything that is to be forgotten",
        )


def check_served(unlearner: Unlearner, asked: Forgets) -> None:
    """Raises `InvalidArgumentError` if a method cannot serve requests of this kind."""
    if asked not in unlearner.forgets:
        able = "whole classes" if Forgets.CLASSES in unlearner.forgets else "samples"
        raise InvalidArgumentError(
            "request",
            str(asked.name).lower(),
            f"is more than the method can do, which forgets {able} only; `ignpx methods` lists "
            "what each method can forget",
        )


def _check_arguments(
    unlearner: Unlearner, classifier: Classifier, request: Request, key: jax.Array
) -> jax.Array:
    """Raises `InvalidArgumentError` for arguments that are none; returns the key, wrapped."""
    key = _check_method(unlearner, classifier, key)
    if not isinstance(request, Request):
        raise InvalidArgumentError(
            "request", checks.shortened(request), "must be what ignpx.Request.classes returns"
        )
    if checks.traced((classifier, request, key)):
        raise InvalidArgumentError(
            "classifier, request or key",
            "traced",
            "ignpx.unlearn looks at values, which jit, vmap and grad do not have; call "
            "unlearner.unlearn(classifier, request, key) there",
        )
    request.check(classifier.num_classes)
    return key


def _check_method(unlearner: Unlearner, classifier: Classifier, key: jax.Array) -> jax.Array:
    if not isinstance(unlearner, Unlearner):
        advice = "must be a method with its settings, such as ignpx.methods.ignp()"
        if callable(unlearner):
            advice = "must be a method with its settings; call the factory, with parentheses"
        raise InvalidArgumentError("unlearner", checks.shortened(unlearner), advice)
    check_handle(classifier)
    return checks.prng_key(key=key)


def _not_finite(classifier: Classifier) -> list[str]:
    trees = {"params": classifier.params, "state": classifier.state}
    finite = jax.device_get(_finite(jax.tree.leaves(trees)))
    return [name for name, good in zip(targets.paths(trees), finite, strict=True) if not good]


@jax.jit
def _finite(leaves: list[jax.Array]) -> list[jax.Array]:
    """Of each array, whether all its values are finite."""
    return [
        jnp.all(jnp.isfinite(leaf)) if jnp.issubdtype(leaf.dtype, jnp.floating) else jnp.bool_(True)
        for leaf in leaves
    ]
