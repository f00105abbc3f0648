"""The verbs as steps of a chain: small values with one contract, composed into an `Unlearner`.

    from ignpx import steps

    method = steps.chain(
        steps.synthesise([synthesis.cross_entropy()], samples=20, held_out=20),
        steps.weigh(),
        steps.calibrate((0.01, 0.02)),
        steps.edit(steps.Dampen(strength=10.0)),
    )

Each line can be replaced, also by a function of one's own.
"""

from ignpx.steps.calibrating import calibrate
from ignpx.steps.contract import (
    Chained,
    Examples,
    Importance,
    Prepared,
    Report,
    Selected,
    State,
    Step,
    chain,
    check_initialises,
)
from ignpx.steps.descending import Course, descend, under_mask
from ignpx.steps.editing import CappedDampen, Dampen, Editing, Zero, edit
from ignpx.steps.embedding import Embedded, embed, rejoin
from ignpx.steps.judging import judge
from ignpx.steps.neutralising import neutralise
from ignpx.steps.projecting import Shown, project
from ignpx.steps.selecting import Counted, counted, select, threshold
from ignpx.steps.synthesising import synthesise
from ignpx.steps.weighing import Weighing, reweigh, weigh

__all__ = [
    "CappedDampen",
    "Chained",
    "Counted",
    "Course",
    "Dampen",
    "Editing",
    "Embedded",
    "Examples",
    "Importance",
    "Prepared",
    "Report",
    "Selected",
    "Shown",
    "State",
    "Step",
    "Weighing",
    "Zero",
    "calibrate",
    "chain",
    "check_initialises",
    "counted",
    "descend",
    "edit",
    "embed",
    "judge",
    "neutralise",
    "project",
    "rejoin",
    "reweigh",
    "select",
    "synthesise",
    "threshold",
    "under_mask",
    "weigh",
]


def __dir__() -> list[str]:
    return __all__
