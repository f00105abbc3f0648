"""What a step is, what passes from one to the next, and how steps become a method."""

import dataclasses
import functools
import operator
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from ignpx._support import checks, description
from ignpx.classifier import Classifier, PyTree, check_handle
from ignpx.errors import InvalidArgumentError, UnlearningWarning
from ignpx.request import Forgets, Request, Sees
from ignpx.samples import Samples
from ignpx.stages import stage
from ignpx.steps.parts import Shards
from ignpx.unlearner import Changes, Unlearner


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["inputs", "labels"],
    meta_fields=["held_out"],
)
@dataclasses.dataclass(frozen=True)
class Examples:
    """Inputs that stand for K classes, the same number for each.

    Attributes:
      inputs: `(K, n, *input_shape)` float32, preprocessed; or `Shards` of that shape, of which a
        part is in memory at a time.
      labels: `(K,)` class ids.
      held_out: how many of each class, the last ones, take no part in the importance.
    """

    inputs: jax.Array | Shards
    labels: jax.Array
    held_out: int = 0

    @property
    def count(self) -> int:
        """How many of each class the importance is taken on."""
        return self.inputs.shape[1] - self.held_out

    @property
    def weighed(self) -> jax.Array:
        """`(K, count, *input_shape)`, those that the importance is taken on."""
        return self._read[:, : self.count]

    @property
    def unseen(self) -> jax.Array:
        """`(K, held_out, *input_shape)`, the others."""
        return self._read[:, self.count :]

    def flat(self) -> tuple[jax.Array, jax.Array]:
        """Those that the importance is taken on, `(K * count, *input_shape)`, and their labels."""
        inputs = self.weighed
        return inputs.reshape(-1, *inputs.shape[2:]), jnp.repeat(self.labels, self.count)

    @property
    def _read(self) -> jax.Array:
        if isinstance(self.inputs, Shards):
            return self.inputs.of(np.arange(self.inputs.shape[0]))
        return self.inputs

    def cut(self, classes: Any) -> Iterator[tuple["Examples", Any, Any]]:
        """Pieces of a list of classes, each of as many as fit into memory.

        Returns:
          Examples in memory, the rows in them of the classes of the piece, and the places of these
          classes in the list, None for all of it.
        """
        if not isinstance(self.inputs, Shards):
            yield self, classes, None
            return
        for places in self.inputs.cut(classes):
            some = np.asarray(classes)[places]
            held = Examples(self.inputs.of(some), jnp.asarray(some), self.held_out)
            yield held, np.arange(len(some)), places

    def by_class(self, function: Callable[["Examples"], PyTree]) -> PyTree:
        """What a function of examples in memory makes of all: arrays `(..., K, n)`."""
        if not isinstance(self.inputs, Shards):
            return function(self)
        made = [
            function(Examples(self.inputs.read(number), jnp.asarray(classes), self.held_out))
            for number, classes in enumerate(self.inputs.parts)
        ]
        order = np.argsort(np.concatenate(self.inputs.parts))
        return jax.tree.map(lambda *of: jnp.concatenate(of, axis=-2)[..., order, :], *made)


class Importance(NamedTuple):
    """One number per parameter for each side; pytrees like the parameters, None outside targets.

    Attributes:
      forget: how much what is to be forgotten depends on each parameter, not negative.
      retain: how much what is to be kept does. None, as `forget` is, where the other side alone is
        weighed.
    """

    forget: PyTree
    retain: PyTree


class Selected(NamedTuple):
    """The parameters that are to be edited; pytrees like those of `Importance`.

    Attributes:
      masks: booleans.
      log_ratios: logarithms of forget over retain importance, see `ignpx.selection.log_ratio`; None
        where one side alone was weighed, or none.
      log_alpha: the threshold that they were selected by; None if by another rule.
    """

    masks: PyTree
    log_ratios: PyTree = None
    log_alpha: jax.Array | None = None


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=["classifier", "request", "examples", "importance", "selected", "extra", "classes"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True)
class State:
    """What passes along a chain. A step returns it with the fields that it has made replaced.

    Attributes:
      classifier: as far as it has been edited.
      request: what to forget, with the data that the chain may see. None while preparing.
      examples: see `Examples`; None before they are made.
      importance: see `Importance`; None before it is taken.
      selected: see `Selected`; None before a selection.
      extra: named pytrees that a method's own steps hand on to its later ones.
      classes: `(K,)` ids of the classes that are being prepared, ascending; None for all of them.
    """

    classifier: Classifier
    request: Request
    examples: Examples | None = None
    importance: Importance | None = None
    selected: Selected | None = None
    extra: dict[str, PyTree] = dataclasses.field(default_factory=dict)
    classes: np.ndarray | None = None

    def replace(self, **fields: Any) -> "State":
        """A copy with other fields."""
        return dataclasses.replace(self, **fields)

    def need(self, name: str, maker: str) -> Any:
        """A field that an earlier step makes.

        Raises:
          InvalidArgumentError: if there is none; the chain lacks a step, such as `maker`.
        """
        if (value := getattr(self, name)) is None:
            raise InvalidArgumentError(
                "steps", f"no {name}", f"a step needs them; chain {maker} before it"
            )
        return value

    @property
    def forget_data(self) -> Samples:
        """The samples to forget, for a step that `sees` them."""
        return self._granted("forget_data")

    @property
    def retain_data(self) -> Samples:
        """The samples to keep, for a step that `sees` them."""
        return self._granted("retain_data")

    def forgetting(self, samples: Samples) -> "State":
        """A copy with other samples to forget."""
        return self.replace(request=dataclasses.replace(self.request, forget_data=samples))

    def relabelled(self, labels: Any) -> "State":
        """A copy with other labels of the samples to forget."""
        return self.forgetting(self.forget_data._replace(labels=labels))

    def _granted(self, name: str) -> Samples:
        if (data := getattr(self.request, name, None)) is None:
            raise InvalidArgumentError(
                name, None, "a step sees these samples; put them into the request"
            )
        return data


class Report(Protocol):
    """Diagnostics of a step: a NamedTuple of arrays that can judge itself.

    A method that has nothing to say may be left out.
    """

    def check(self, request: Request) -> None:
        """Raises `UnlearningError` with the figures if the step failed."""

    def doubts(self, request: Request) -> list[str]:
        """What speaks against trusting the result, as far as that shows without data."""

    def summary(self) -> dict[str, Any]:
        """The figures as JSON values."""


class Step(NamedTuple):
    """One step of a chain.

    Attributes:
      name: of the stage that its time counts for, see `ignpx.stages`.
      run: a pure function `(state, key, prepared) -> (state, report)`. `prepared` is what `prepare`
        made, or None; the report is a `Report` or None.
      sees: the real data that it takes from the request.
      changes: what it may change of the classifier.
      check: raises `InvalidArgumentError` for a classifier that the step cannot serve; called
        before the first step runs.
      prepare: a pure function `(state, key) -> prepared` of what does not depend on the request.
      settings: by name, those that `prepare` depends on: what was prepared with other values is
        refused. One whose value shows in the shapes, such as the target layers, need not be here.
      prepares_all: whether a run with what was prepared does nothing else, and counts as no stage.
      parts: of a classifier, the class ids of each part that `prepare` may be called for, with
        `State.classes`; None for a step that prepares all classes at once, or what another divides.
      join: makes what `prepare` makes of all classes from what it made of each part.
    """

    name: str
    run: Callable[[State, jax.Array, Any], tuple[State, Any]]
    sees: Sees = Sees.NOTHING
    changes: Changes = Changes(0)
    check: Callable[[Classifier], None] | None = None
    prepare: Callable[[State, jax.Array], Any] | None = None
    settings: Mapping[str, Any] = {}
    prepares_all: bool = False
    parts: Callable[[Classifier], Sequence[np.ndarray]] | None = None
    join: Callable[[Sequence[Any]], Any] | None = None


class Prepared(NamedTuple):
    """What a chain needs of a model whatever is to be forgotten.

    Attributes:
      parts: of each step that prepares, in their order.
      made_of: the fingerprint of the classifier, by which `ignpx.unlearn` tells it from others.
      made_with: `(N,)` uint32, a checksum of each setting that the steps prepared with.
    """

    parts: tuple[Any, ...]
    made_of: jax.Array | None = None
    made_with: Any = None


@functools.partial(jax.tree_util.register_dataclass, data_fields=["reports"], meta_fields=[])
@dataclasses.dataclass(frozen=True)
class Chained:
    """Diagnostics of a chain. Those of its steps are its attributes: `info.calibration`.

    Attributes:
      reports: of each step that has one, in their order.
    """

    reports: tuple[Any, ...]

    def __getattr__(self, name: str) -> Any:
        """The field of this name of the first report that has one."""
        if not name.startswith("_"):
            for report in self.reports:
                if name in getattr(report, "_fields", ()):
                    return getattr(report, name)
        raise AttributeError(f"no step of the chain reports {name!r}")

    def check(self, request: Request) -> None:
        """Raises `UnlearningError` if a step failed; warns of doubts."""
        self._each("check", request)
        for doubt in self.doubts(request):
            warnings.warn(doubt, UnlearningWarning, stacklevel=3)

    def doubts(self, request: Request) -> list[str]:
        """What speaks against trusting the result, as far as that shows without data."""
        return [doubt for doubts in self._each("doubts", request) for doubt in doubts]

    def summary(self) -> dict[str, Any]:
        """The figures of all steps as JSON values."""
        return functools.reduce(operator.or_, self._each("summary"), {})

    def _each(self, method: str, *arguments: Any) -> list[Any]:
        """What the reports that have this method return."""
        return [
            getattr(report, method)(*arguments)
            for report in self.reports
            if hasattr(report, method)
        ]


Keys = Callable[[jax.Array], Sequence[jax.Array]]


def chain(
    *steps: Step | Callable[[State], State],
    forgets: Forgets = Forgets.CLASSES,
    keys: Keys | None = None,
) -> Unlearner:
    """Composes steps into a method.

    Args:
      *steps: in their order. A function of the state to a new state is a step, too: one that sees
        no data and may change the parameters.
      forgets: the requests that the method can serve.
      keys: maps the key of a request to one key, or array of keys, for each step. By default the
        first step has the key itself and step i has `jax.random.fold_in(key, i)`.

    Returns:
      An `Unlearner` that sees and changes what its steps do. It is pure, and runs under `jit` and
      under `vmap` over requests if its steps do. It can prepare if its first steps can.

    Raises:
      InvalidArgumentError: if there is no step, or one of them is neither a step nor a function.
    """
    if not steps:
        raise InvalidArgumentError("steps", (), "name at least one step")
    chained = [_as_step(step) for step in steps]
    preparing = [step for step in chained if step.prepare is not None]
    if [step.prepare is not None for step in chained[: len(preparing)]] != [True] * len(preparing):
        late = next(step.name for step in chained if step.prepare is None)
        raise InvalidArgumentError(
            "steps", late, "comes before a step that prepares; put those that prepare first"
        )
    draw = functools.partial(_folded, len(chained)) if keys is None else keys
    checksums = functools.cache(functools.partial(_checksums, preparing))
    divided = any(step.parts for step in preparing) and all(step.join for step in preparing)

    def check(classifier: Classifier) -> None:
        for step in chained:
            if step.check is not None:
                step.check(classifier)

    def prepare(
        classifier: Classifier, key: jax.Array, classes: np.ndarray | None = None
    ) -> Prepared:
        check_handle(classifier)
        check(classifier)
        made_with = np.array([crc for _, crc in checksums()], np.uint32)
        state = State(classifier, None, classes=classes)  # type: ignore[arg-type]
        parts: list[Any] = []
        for step, one in zip(preparing, draw(checks.prng_key(key=key)), strict=False):
            assert step.prepare is not None
            parts.append(stage(step.name, step.prepare)(state, one))
            if len(parts) < len(preparing):
                state, _ = step.run(state, one, parts[-1])
        return Prepared(tuple(parts), classifier.fingerprint(), made_with)

    def unlearn(
        classifier: Classifier,
        request: Request,
        key: jax.Array,
        prepared: Prepared | None = None,
    ) -> tuple[Classifier, Chained]:
        check(classifier)
        if prepared is not None:
            _check_made_with(checksums(), prepared.made_with)
        parts = () if prepared is None else prepared.parts
        parts = (*parts, *[None] * (len(chained) - len(parts)))
        state, reports = State(classifier, request), []
        for step, one, part in zip(chained, draw(key), parts, strict=True):
            done = step.prepares_all and part is not None
            run = step.run if done else stage(step.name, step.run)
            state, report = run(state, one, part)
            reports += [] if report is None else [report]
        return state.classifier, Chained(tuple(reports))

    return Unlearner(
        functools.reduce(operator.or_, (step.sees for step in chained)),
        unlearn,
        functools.reduce(operator.or_, (step.changes for step in chained)),
        forgets,
        prepare if preparing else None,
        _InParts(tuple(preparing), prepare) if divided else None,
    )


class _InParts(NamedTuple):
    """The preparation of a chain, a part of the classes at a time."""

    steps: tuple[Step, ...]
    part: Callable[[Classifier, jax.Array, np.ndarray], Prepared]

    def parts(self, classifier: Classifier) -> Sequence[np.ndarray]:
        return next(step.parts(classifier) for step in self.steps if step.parts is not None)

    def join(self, parts: Sequence[Prepared]) -> Prepared:
        each = zip(self.steps, zip(*(one.parts for one in parts), strict=True), strict=True)
        joined = tuple(step.join(made) for step, made in each if step.join is not None)
        return parts[0]._replace(parts=joined)


def _checksums(preparing: Sequence[Step]) -> list[tuple[str, int]]:
    """Of each setting that the steps prepare with."""
    settings = [pair for step in preparing for pair in step.settings.items()]
    return [(name, description.crc(value)) for name, value in settings]


def _check_made_with(own: list[tuple[str, int]], found: Any) -> None:
    """Raises unless what was prepared has these checksums, as far as they can be looked at."""
    if isinstance(found, jax.core.Tracer):
        return
    if np.shape(found) != (len(own),):
        raise InvalidArgumentError("prepared", checks.shortened(found), "is of another chain")
    each = zip(own, np.asarray(found).tolist(), strict=True)
    if names := [name for (name, crc), one in each if crc != one]:
        raise InvalidArgumentError(
            "prepared", names, "was prepared with other values of these; prepare with yours"
        )


def _as_step(given: Any) -> Step:
    if isinstance(given, Step):
        return given
    if not callable(given):
        raise InvalidArgumentError(
            "steps",
            checks.shortened(given),
            "must be a step, such as ignpx.steps.weigh(), or a function of the state",
        )
    name = getattr(given, "__name__", type(given).__name__)
    changes = Changes.TARGETS | Changes.OTHER_LAYERS
    return Step(name, lambda state, key, prepared: (given(state), None), changes=changes)


def _folded(count: int, key: jax.Array) -> list[jax.Array]:
    return [key, *(jax.random.fold_in(key, number) for number in range(1, count))]


def check_initialises(classifier: Classifier) -> None:
    """The `check` of a step that needs newly initialised parameters.

    Raises:
      InvalidArgumentError: if the classifier does not know how it is initialised.
    """
    if classifier.initialise is None:
        classifier.fresh(jax.random.key(0))
