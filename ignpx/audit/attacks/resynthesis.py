"""Re-synthesis: IGNP's own inversion, turned on the model that has forgotten.

The attacker needs the weights and nothing else, as IGNP does. Prototypes of every class are
optimised from noise by the objective of IGNP's default (`ignpx.methods.ignp`): cross-entropy and
diversity (Equations 1 and 2 of "Perturb to Forget") with its two priors of images, by Adam with a
rate of 0.1 and within the values that a pixel can have. The attack then counts the prototypes of
the forgotten classes that reach their class: to which the model gives its largest logit.

That an edited model still has inputs of the class says little of what they show. A judge, a model
that was trained independently, says how many show the class. `ignpx.audit.inversion` asks the judge
about reconstructions by an objective of their own, and does not ask whether the model was reached.

A model that never saw the class may be reached, too, and its prototypes may show the class: what is
least like all other classes can look like the missing one. On the embedded digits all prototypes of
two retrained LeNets do both. Only a difference from retrained models is evidence.

No paper attacks unlearning so.
"""

import functools

import jax
import numpy as np
import optax

from ignpx import synthesis
from ignpx._support import checks
from ignpx.audit import intervals
from ignpx.audit.attacks import common
from ignpx.audit.contract import Evidence, Finding, Measure, NotMeasuredError
from ignpx.audit.inversion import conversion_between, judged_shares
from ignpx.errors import UnlearningError


def resynthesis(*, samples: int = 20, steps: int = 200) -> Measure:
    """The share of the prototypes of the forgotten classes that the model gives to the class.

    Its interval is Wilson's over the prototypes, which start from independent noise. `details` has
    `confidence`, the mean probability of the class, `reached_retain` and, if there is a judge,
    `judged`, the share in which the judge sees the class, and its interval; `judged_retain` is the
    same of all other classes. A logit that is merely lowered keeps the value at 0, and `judged`
    shows the class nevertheless. `arrays` have the prototypes as `images`.

    Args:
      samples: prototypes of each class.
      steps: optimisation steps.
    """
    checks.whole(samples=samples, steps=steps)

    def measure(evidence: Evidence) -> Finding:
        gone = np.isin(np.arange(evidence.model.num_classes), common.classes(evidence))
        try:
            made = synthesis.synthesise(
                evidence.model,
                jax.random.key(evidence.seed),
                terms=_terms(),
                samples=samples,
                steps=steps,
                optimizer=_adam(),
                bounds=evidence.model.bounds,
            )
        except UnlearningError as error:
            raise NotMeasuredError("model", "no prototypes", str(error)) from error
        details = {"confidence": float(np.asarray(made.confidence)[gone].mean())}
        reached = np.asarray(made.recognised)
        shares = {"reached": reached}
        if evidence.judge is not None:
            conversion = conversion_between(evidence.model, evidence.judge)
            judged = judged_shares(evidence.judge, made.inputs, made.labels, conversion)
            shares["judged"] = np.asarray(judged)
        ends = {name: _share(found[gone], samples) for name, found in shares.items()}
        for name, found in shares.items():
            if not gone.all():
                details[f"{name}_retain"] = float(found[~gone].mean())
        if "judged" in ends:
            value, low, high = ends["judged"]
            details |= {"judged": value, "judged_low": low, "judged_high": high}
        return Finding(*ends["reached"], details, {"images": np.asarray(made.inputs)})

    return Measure(
        measure,
        title="Re-synthesis",
        paper="Perturb to Forget, Equations 1 and 2; no paper as an attack",
        needs=(),
        unit="share",
        low=0.0,
        high=1.0,
        better="retrained",
    )


def _share(found: np.ndarray, samples: int) -> tuple[float, float, float]:
    """The share of the prototypes of some classes `(K,)`, with its interval."""
    hits, total = round(float(found.sum()) * samples), len(found) * samples
    return hits / total, *intervals.of_share(hits, total)


# Cached, so that all calls compile once.
@functools.cache
def _terms() -> tuple[synthesis.Term, ...]:
    priors = synthesis.total_variation(), synthesis.batch_statistics()
    return synthesis.cross_entropy(), synthesis.diversity(), *priors


@functools.cache
def _adam() -> optax.GradientTransformation:
    return optax.adam(0.1)
