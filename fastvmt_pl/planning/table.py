"""Plans as Markdown tables."""

from collections.abc import Sequence

from fastvmt_pl.planning.calibration import Rates
from fastvmt_pl.planning.run_plan import Plan

GIB = 2**30


def gib(num_bytes: int) -> str:
    """Return a number of bytes in GiB.

    >>> gib(2**29)
    '0.50'
    """
    return f"{num_bytes / GIB:.2f}" if num_bytes >= GIB / 10 else f"{num_bytes / GIB:.4f}"


def parts_table(plan: Plan) -> str:
    """Return the memory of each part: weights, activations, AMF and the autoencoder."""
    gradient, motion = plan.rehearsal.gradient, plan.rehearsal.motion
    rows = [
        [f"weights of the {name}", f"{size.num_parameters / 1e6:,.1f} M", gib(size.num_bytes)]
        for name, size in plan.sizes.items()
    ]
    for checkpointing in (False, True):
        used = " (as set)" if checkpointing == plan.checkpointing else ""
        name = f"activations of a gradient, {'with' if checkpointing else 'without'} checkpointing{used}"
        rows.append([name, "", gib(gradient[checkpointing].growth)])
    rows += [
        ["of these, AMF and the losses", "", gib(motion.growth)],
        ["autoencoder, encoding", "", gib(plan.rehearsal.encoding.growth)],
        ["autoencoder, decoding", "", gib(plan.rehearsal.decoding.growth)],
    ]
    return _markdown(["part", "parameters", "GiB"], rows)


def steps_table(plan: Plan, rates: Rates | None) -> str:
    """Return the cost of each step, and how often the run takes it."""
    rows = []
    for step in plan.steps:
        seconds = [] if rates is None else [duration(step.seconds(rates))]
        peak = f"**{gib(step.reading.peak)}**" if step is plan.largest else gib(step.reading.peak)
        rows.append([step.name, peak, str(step.num_times), f"{plan.forward_equivalents(step):.1f}", *seconds])
    total = f"{sum(plan.forward_equivalents(step) for step in plan.steps):.1f}"
    end = [] if rates is None else [duration(sum(step.seconds(rates) for step in plan.steps))]
    rows.append(["all", gib(plan.peak), "", total, *end])
    header = ["step", "peak GiB", "times", "forward passes per job", *([] if rates is None else ["time, estimated"])]
    return _markdown(header, rows)


def duration(seconds: float) -> str:
    """Return a duration with about two digits.

    >>> duration(0.25), duration(75.0), duration(7500.0)
    ('0.25 s', '75 s', '2.1 h')
    """
    if seconds < 100:
        return f"{seconds:.2g} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def _markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return an aligned table; the first column is text, the others are numbers."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = []
    for first, *others in [header, rule, *rows]:
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
