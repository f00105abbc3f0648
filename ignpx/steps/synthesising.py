"""Synthesise: examples of every class, made from the model alone."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
import optax

from ignpx import synthesis
from ignpx._support import checks
from ignpx.classifier import Classifier
from ignpx.errors import InvalidArgumentError, UnlearningError
from ignpx.request import Request
from ignpx.steps.contract import Examples, State, Step
from ignpx.steps.parts import split


class Synthesised(NamedTuple):
    """The report of `synthesise`.

    Attributes:
      prototypes: what was synthesised, of every class.
    """

    prototypes: synthesis.Prototypes

    def check(self, request: Request) -> None:
        """Raises if values are not finite, or a class was not reached."""
        self.prototypes.check()
        used = np.asarray(request.forget | request.retain)
        recognised = np.asarray(self.prototypes.recognised)
        lost = np.flatnonzero(used & ~(recognised >= 0.5))
        if lost.size:
            shares = ", ".join(f"{c}: {recognised[c]:.0%}" for c in lost[:10])
            raise UnlearningError(
                f"prototypes did not reach their class (recognised share by class: {shares}); "
                "the model may be constant or untrained, which ignpx.check tells; otherwise take "
                "more steps of the synthesis, or a higher learning rate of it"
            )

    def doubts(self, request: Request) -> list[str]:
        """Whether the prototypes are noise, or so sure that their gradients vanish."""
        used = np.asarray(request.forget | request.retain)
        doubts = []
        # What is no image has none.
        measured = self.prototypes.roughness
        roughness = np.zeros(len(used)) if measured is None else np.asarray(measured)
        rough = np.flatnonzero(used & (roughness >= 1))
        if rough.size:
            doubts.append(
                f"the prototypes of classes {rough.tolist()} are as rough as noise (roughness "
                f"{roughness[rough].max():.2f}, noise has 1): they reach their class "
                "without resembling its data, and real samples may not be forgotten; raise "
                "total_variation, or batch_statistics for a model with batch norm"
            )
        loss = np.asarray(self.prototypes.loss)
        if loss[used].min() < 1e-6:
            doubts.append(
                f"the prototypes are saturated (mean loss by class from {loss[used].min():.1e} to "
                f"{loss[used].max():.1e}): their gradients vanish, and alpha is decided by "
                "rounding; take fewer steps of the synthesis or a lower learning rate of it, or "
                "raise total_variation"
            )
        return doubts

    def summary(self) -> dict[str, Any]:
        """The figures as JSON values."""
        return {
            "prototype_loss": [float(v) for v in self.prototypes.loss],
            "prototype_confidence": [float(v) for v in self.prototypes.confidence],
        }


def synthesise(
    terms: Sequence[synthesis.Term],
    *,
    samples: int = 20,
    held_out: int = 0,
    steps: int = 200,
    optimizer: optax.GradientTransformation | None = None,
    pixel_range: bool = True,
    precision: Literal["float32", "bfloat16"] = "float32",
    classes_at_once: int | None = None,
) -> Step:
    """Makes the examples: noise, optimised under a sum of terms into prototypes of every class.

    Args:
      terms: functions of a `synthesis.View` to a scalar.
      samples: prototypes of each class that the importance is taken on.
      held_out: prototypes of each class besides, which judge the edit.
      steps: of the optimisation.
      optimizer: an optax transformation of the inputs, `optax.adam(0.1)` by default.
      pixel_range: keeps prototypes within the values that an image can have, where the classifier's
        preprocessing tells them.
      precision: of the model's passes.
      classes_at_once: number of classes that are synthesised together, at most: memory against
        speed. By default as many as `synthesis.classes_at_once` estimates to fit. A class has the
        same noise in any part. The result changes by rounding, and with `batch_statistics` by more
        (see `synthesis.synthesise`).

    Raises:
      InvalidArgumentError: if an argument is out of its range.
    """
    checks.whole(samples=samples, steps=steps)
    checks.count(held_out=held_out)
    checks.one_of(("float32", "bfloat16"), precision=precision)
    if classes_at_once is not None:
        checks.whole(classes_at_once=classes_at_once)
    terms, count = tuple(terms), samples + held_out

    def parts(classifier: Classifier) -> list[np.ndarray]:
        at_once = classes_at_once or synthesis.classes_at_once(classifier, count)
        return split(classifier.num_classes, at_once)

    def prepare(state: State, key: jax.Array) -> synthesis.Prototypes:
        if state.classes is None and len(each := parts(state.classifier)) > 1:
            return synthesis.joined(
                [prepare(state.replace(classes=classes), key) for classes in each]
            )
        return synthesis.synthesise(
            state.classifier.computing_in(precision),
            key,
            terms=terms,
            samples=count,
            steps=steps,
            optimizer=optimizer,
            bounds=state.classifier.bounds if pixel_range else None,
            labels=state.classes,
            part_of=None if state.classes is None else state.classifier.num_classes,
        )

    def run(
        state: State, key: jax.Array, prepared: synthesis.Prototypes | None
    ) -> tuple[State, Synthesised]:
        prototypes = prepare(state, key) if prepared is None else prepared
        if (found := prototypes.inputs.shape[1]) != count:
            raise InvalidArgumentError(
                "prepared",
                f"{found} prototypes of each class",
                "was prepared with other samples or held_out; prepare with these",
            )
        return state.replace(
            examples=Examples(prototypes.inputs, prototypes.labels, held_out)
        ), Synthesised(prototypes)

    settings = {
        "terms": terms,
        "samples": samples,
        "held_out": held_out,
        "steps": steps,
        "optimizer": optimizer,
        "pixel_range": pixel_range,
        "precision": precision,
        "classes_at_once": classes_at_once,
    }
    return Step(
        "synthesis",
        run,
        prepare=prepare,
        settings=settings,
        prepares_all=True,
        parts=parts,
        join=synthesis.joined,
    )
