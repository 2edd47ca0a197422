"""``fastvmt plan``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

from fastvmt_pl.cli.words import Command
from fastvmt_pl.errors import UserError
from fastvmt_pl.joblists.job_list import BATCH_SIZE
from fastvmt_pl.planning import gib, parts_table, steps_table
from fastvmt_pl.planning.planning_run import PROMPT, PlannedShare, Share, plan_shares, shares_of
from fastvmt_pl.runs.transfer_options import TransferOptions

DETAIL = """Memory by part and by step, how often each step is taken, and an estimate of the time. It needs only the
model's configs. The exit code is 1 if the run does not fit. Example:
fastvmt plan --config configs/wan2.1_1.3b.yaml --num-jobs 8 --memory 24 --no-calibrated
"""


def command(args: Sequence[str]) -> Command:
    """Return the command."""
    return Command(DETAIL, plan)


def plan(
    num_jobs: int = 1,
    batch_size: int | None = None,
    jobs: Path | None = None,
    memory: float | None = None,
    calibrated: bool = True,
    **options: Unpack[TransferOptions],
) -> None:
    """Say what a run will cost, whether it fits, and if not, what to change.

    Args:
        num_jobs: Prompts to which the motion of a clip is transferred.
        batch_size: How many of them are optimised side by side. Default: 1, or 4 of a list, as in transfer.
        jobs: List of jobs, as fastvmt transfer --jobs takes it, in place of num_jobs; jobs with the same settings are
            planned together. Its clips are not opened.
        memory: GiB of memory to fit into. Default: those of this device. With a number, dtype auto is planned as
            bfloat16, since the GPU may be elsewhere.
        calibrated: Also estimate the time, by some seconds of work on this device.
        options: How to transfer; see :class:`~fastvmt_pl.runs.transfer_options.TransferOptions`.

    Raises:
        UserError: If a setting or the model cannot be used, or the device is not there.
        RuntimeError: If the run does not fit.
    """
    size = (1 if jobs is None else BATCH_SIZE) if batch_size is None else batch_size
    if num_jobs < 1 or size < 1:
        raise UserError(f"num_jobs is {num_jobs} and batch_size {size}; use at least 1")
    shares, num_refused = [Share(options, {}, {Path(): [PROMPT] * num_jobs})], 0
    if jobs is not None:
        shares, num_refused = shares_of(jobs, options)
    if num_refused:
        print(f"{num_refused} entries are left out; fastvmt transfer --jobs {jobs} --check says why\n")
    problems = []
    for found in plan_shares(shares, size, memory, calibrated):
        if jobs is not None:
            print(f"{found.share}\n")
        problems += show(found, elsewhere=memory is not None)
    if problems:
        raise RuntimeError("; ".join(problems))


def show(found: PlannedShare, elsewhere: bool) -> list[str]:
    """Print what jobs cost and what to change; return what is wrong."""
    if found.auto_dtype is not None:
        gpu = elsewhere and found.auto_dtype == "bfloat16"
        also = ", which GPUs have from compute capability 8.0 on" if gpu else ""
        print(f"dtype auto is planned as {found.auto_dtype}{also}\n")
    frames, rows, columns = found.plan.tokens
    print(f"{frames} latent frames of {rows} x {columns} tokens, {frames * rows * columns} tokens a job\n")
    print(f"{parts_table(found.plan)}\n\n{steps_table(found.plan, found.rates)}\n")
    have = f"{gib(found.room)} of {gib(found.memory)} GiB (a tenth is left to driver and kernels)"
    peak = gib(found.plan.peak)
    if found.fits:
        print(f"it fits: {peak} GiB in {have}\n")
        return []
    print(f"it does not fit: {peak} GiB in {have}; the largest step: {found.plan.largest.name}", flush=True)
    fits = False
    for change in found.changes:
        fits = change.plan.peak <= found.room
        print(f"set {change.setting}: {gib(change.plan.peak)} GiB{', which fits' if fits else ''}")
    ending = "the lines above say what to change" if fits else "nor with these changes; use a device with more memory"
    return [f"the run takes {peak} GiB and does not fit; {ending}"]
