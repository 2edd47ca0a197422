"""What every process does that works on jobs: join the others, claim the folder, deal out batches."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from fastvmt_pl.errors import UserError
from fastvmt_pl.joblists.batches import Batch, make_batches
from fastvmt_pl.joblists.job import Job, Outcome
from fastvmt_pl.joblists.job_check import cut
from fastvmt_pl.joblists.job_queue import JobQueue
from fastvmt_pl.joblists.job_runner import JobRunner
from fastvmt_pl.joblists.verdicts import Verdicts
from fastvmt_pl.processes.ranks import Rank, alone, read_rank, take_own_gpu
from fastvmt_pl.processes.sharing import together
from fastvmt_pl.processes.stop_request import StopRequest, listening
from fastvmt_pl.runs.claims import cut_list, other_settings


@contextmanager
def one_of_many() -> Iterator[tuple[Rank, StopRequest]]:
    """Within the block, this is one of the processes that work on the same jobs: which, and whether it is to stop."""
    rank, request = read_rank(), StopRequest()
    with listening(request), alone(), _quiet():
        take_own_gpu(rank)
        yield rank, request


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning from telling about devices and epochs, once a job."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def claim_folder(folder: Path) -> Path:
    """Make the folder of some jobs, and return it.

    Raises:
        UserError: If it holds something else.
    """
    if folder.exists() and not (folder / "jobs").exists() and any(folder.iterdir()):
        raise UserError(f"{folder} is in use and holds no list of jobs; choose another output")
    (folder / "jobs").mkdir(parents=True, exist_ok=True)
    return folder


def without_other_settings(jobs: Sequence[Job], folder: Path, verdicts: Verdicts) -> tuple[list[Job], list[Outcome]]:
    """Return the jobs whose folders are free or hold the very same jobs, and those whose folders hold others."""
    able, taken, present = list[Job](), list[Outcome](), set(os.listdir(folder / "jobs"))
    for job in jobs:
        place = folder / "jobs" / job.name
        try:
            differing = _differing(job, place, verdicts) if job.name in present else []
        except UserError as error:  # what the folder holds cannot be read
            taken.append(Outcome(job.name, "refused", str(error)))
            continue
        if differing:
            reason = f"{place} holds a job with other settings ({cut_list(differing)}); rename one of them"
            taken.append(Outcome(job.name, "refused", reason))
        else:
            able.append(job)
    return able, taken


def _differing(job: Job, folder: Path, verdicts: Verdicts) -> list[str]:
    """Return which settings of a job differ from those in its folder; a clip is only read if its length decides."""
    found = other_settings(folder, job.identify, job=job.described())
    if len(found) == 1 and found[0].startswith("data.num_frames:"):
        shorter = cut(job, verdicts.of(job).num_frames)
        return other_settings(folder, shorter.identify, job=shorter.described())
    return found


def make_queue(
    runner: JobRunner,
    verdicts: Verdicts,
    jobs: Sequence[Job],
    costs: Mapping[str, int],
    batch_size: int,
    across_clips: bool,
    run: Callable[[Batch], None] | None = None,
) -> JobQueue:
    """Return what deals out jobs to this process, and tell its runner of the prompts that are to come.

    Args:
        runner: Runs batches.
        verdicts: What is known of the clips.
        jobs: Jobs that can run.
        costs: What a job of each kind costs; see :func:`~fastvmt_pl.joblists.batches.make_batches`.
        batch_size: The most jobs of a batch.
        across_clips: Whether jobs of different clips may be in a batch.
        run: Runs a batch in the runner's place.
    """
    batches = make_batches(jobs, costs, batch_size, across_clips)
    batches = together(batches, lambda batch: batch.jobs[0].backbone, runner.rank.number)
    queue = JobQueue(runner.folder, batches, verdicts, run or runner.run, runner.is_begun, runner.request)
    for job in (job for batch in batches for job in batch.jobs if not queue.is_done(job)):
        runner.prompts.setdefault(job.backbone, []).append(job.prompt)
    return queue
