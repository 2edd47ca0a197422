"""``fastvmt plan``."""

from pathlib import Path
from typing import Unpack

from fastvmt_pl.cli.words import Command
from fastvmt_pl.errors import UserError
from fastvmt_pl.joblists.batches import BATCH_SIZE
from fastvmt_pl.planning.planned_share import Share
from fastvmt_pl.planning.planning_run import PROMPT, plan_shares, shares_of
from fastvmt_pl.runs.transfer_options import TransferOptions

DETAIL = """Memory by part and by step, how often each step is taken, and an estimate of the time. It needs only the
model's configs. The exit code is 1 if the run does not fit.

Example: fastvmt plan --config configs/wan2.1_1.3b.yaml --num-jobs 8 --memory 24 --no-calibrated"""


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
        print(f"{found.share}\n\n{found}\n" if jobs is not None else f"{found}\n", flush=True)
        problems += [] if found.problem is None else [found.problem]
    if problems:
        raise RuntimeError("; ".join(problems))


COMMAND = Command(DETAIL, plan)
