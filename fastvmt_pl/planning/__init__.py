"""The cost of a run before it starts: the real code runs on tensors without data."""

from fastvmt_pl.planning.advice import Change, advise
from fastvmt_pl.planning.calibration import Rates, calibrate
from fastvmt_pl.planning.rehearsal import Rehearsal
from fastvmt_pl.planning.run_plan import Plan, Size, Step, plan
from fastvmt_pl.planning.table import gib, parts_table, steps_table
from fastvmt_pl.planning.workload import Workload

__all__ = [
    "Change",
    "Plan",
    "Rates",
    "Rehearsal",
    "Size",
    "Step",
    "Workload",
    "advise",
    "calibrate",
    "gib",
    "parts_table",
    "plan",
    "steps_table",
]
