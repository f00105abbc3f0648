"""Acceleration ratio, Zuo et al., Section 4.2: the time of retraining over that of unlearning."""

import math

from ignpx.audit.contract import Evidence, Finding, Measure, NotMeasuredError


def acceleration() -> Measure:
    """How many times faster unlearning is than retraining, without an interval.

    The seconds of both are without compilation and without evaluation, which the public code of SSD
    and JiT includes.
    """

    def measure(evidence: Evidence) -> Finding:
        times = evidence.seconds
        for name in ("model", "retrained"):
            if not 0 < times[name] < math.inf:
                raise NotMeasuredError("seconds", times[name], f"of `{name}` must be above zero")
        return Finding(times["retrained"] / times["model"])

    return Measure(
        measure,
        title="Acceleration",
        paper="Zuo et al.",
        needs=("seconds",),
        unit="ratio",
        low=0.0,
        high=math.inf,
        better="higher",
        null=1.0,
    )
