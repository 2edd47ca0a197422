"""What every process does before it works on jobs: join the others, and claim the folder."""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fastvmt_pl.errors import UserError
from fastvmt_pl.joblists.job import Job, Outcome
from fastvmt_pl.joblists.job_check import cut
from fastvmt_pl.joblists.verdicts import Verdicts
from fastvmt_pl.processes.ranks import Rank, alone, read_rank, take_own_gpu
from fastvmt_pl.processes.stop_request import StopRequest, listening
from fastvmt_pl.runs.claims import cut_list, other_settings


@contextmanager
def one_of_many() -> Iterator[tuple[Rank, StopRequest]]:
    """Within the block, this is one of the processes that work on the same jobs: which, and whether it is to stop."""
    rank, request, logger = read_rank(), StopRequest(), logging.getLogger("lightning.pytorch")
    level = logger.level
    with listening(request), alone():
        take_own_gpu(rank)
        logger.setLevel(logging.WARNING)  # or it would tell about devices and epochs, once a job
        try:
            yield rank, request
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
