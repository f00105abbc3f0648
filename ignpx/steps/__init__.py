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

from ignpx.steps.contract import Chained as Chained
from ignpx.steps.contract import Examples as Examples
from ignpx.steps.contract import Importance as Importance
from ignpx.steps.contract import Prepared as Prepared
from ignpx.steps.contract import Report as Report
from ignpx.steps.contract import Selected as Selected
from ignpx.steps.contract import State as State
from ignpx.steps.contract import Step as Step
from ignpx.steps.contract import chain as chain
from ignpx.steps.contract import check_initialises as check_initialises
from ignpx.steps.descending import Course as Course
from ignpx.steps.descending import descend as descend
from ignpx.steps.descending import under_mask as under_mask
from ignpx.steps.editing import CappedDampen as CappedDampen
from ignpx.steps.editing import Dampen as Dampen
from ignpx.steps.editing import Editing as Editing
from ignpx.steps.editing import Zero as Zero
from ignpx.steps.editing import edit as edit
from ignpx.steps.judging import judge as judge
from ignpx.steps.selecting import Counted as Counted
from ignpx.steps.selecting import calibrate as calibrate
from ignpx.steps.selecting import counted as counted
from ignpx.steps.selecting import select as select
from ignpx.steps.selecting import threshold as threshold
from ignpx.steps.synthesising import synthesise as synthesise
from ignpx.steps.weighing import Weighing as Weighing
from ignpx.steps.weighing import reweigh as reweigh
from ignpx.steps.weighing import weigh as weigh

__all__ = [
    "CappedDampen",
    "Chained",
    "Counted",
    "Course",
    "Dampen",
    "Editing",
    "Examples",
    "Importance",
    "Prepared",
    "Report",
    "Selected",
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
    "judge",
    "reweigh",
    "select",
    "synthesise",
    "threshold",
    "under_mask",
    "weigh",
]


def __dir__() -> list[str]:
    return __all__
