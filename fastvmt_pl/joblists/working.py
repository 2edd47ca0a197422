"""Prepare a process to share jobs with others: its rank, the folder, and the jobs' own folders."""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from fastvmt_pl.errors import UserError
from fastvmt_pl.files.atomic import naming, write_text
from fastvmt_pl.files.locks import PATIENCE, locked_file
from fastvmt_pl.joblists.job import Job, Outcome
from fastvmt_pl.joblists.job_check import cut
from fastvmt_pl.joblists.verdicts import Verdicts
from fastvmt_pl.processes.ranks import Rank, alone, read_rank, take_own_gpu
from fastvmt_pl.processes.stop_request import StopRequest, listening
from fastvmt_pl.runs.claims import cut_list, other_settings

Kind = Literal["job list", "sweep"]
"""Kind of a folder of jobs. The two kinds differ in their jobs and results."""
KIND = "kind.txt"
"""File in such a folder that names its kind."""


@contextmanager
def one_of_many() -> Iterator[tuple[Rank, StopRequest]]:
    """Prepare this process to share jobs with others; yield its rank, and whether it was asked to stop."""
    rank, request, logger = read_rank(), StopRequest(), logging.getLogger("lightning.pytorch")
    level = logger.level
    with listening(request), alone():
        take_own_gpu(rank)
        logger.setLevel(logging.WARNING)  # Lightning reports devices and epochs in every fit
        try:
            yield rank, request
        finally:
            logger.setLevel(level)


def claim_folder(folder: Path, kind: Kind) -> Path:
    """Make the folder of a job list or a sweep, and return it.

    Raises:
        UserError: If it exists and holds something else.
    """
    if folder.exists() and not (folder.is_dir() and ((folder / "jobs").exists() or not any(folder.iterdir()))):
        raise UserError(f"{folder} is in use and holds no {kind}; choose another output")
    with naming(folder):
        (folder / "jobs").mkdir(parents=True, exist_ok=True)
    with locked_file(folder / KIND, PATIENCE):
        there = _kind_of(folder)
        if there not in (None, kind):
            raise UserError(f"{folder} holds a {there}, and this is a {kind}; choose another output")
        if not (folder / KIND).exists():
            write_text(folder / KIND, f"{kind}\n")
    return folder


def _kind_of(folder: Path) -> str | None:
    """Return a folder's kind. Earlier versions wrote no kind, but the columns of their results show it."""
    if (folder / KIND).exists():
        return (folder / KIND).read_text(encoding="utf-8").strip()
    results = folder / "results.csv"
    if not results.exists():
        return None
    return "job list" if results.read_text(encoding="utf-8").startswith("name,") else "sweep"


def without_other_settings(jobs: Sequence[Job], folder: Path, verdicts: Verdicts) -> tuple[list[Job], list[Outcome]]:
    """Return the jobs whose folders are free or hold the same jobs, and outcomes of those whose folders hold others."""
    able, taken, present = list[Job](), list[Outcome](), set(os.listdir(folder / "jobs"))
    for job in jobs:
        place = folder / "jobs" / job.name
        try:
            differing = _differing(job, place, verdicts) if job.name in present else []
        except UserError as error:  # the folder's settings cannot be read
            taken.append(Outcome(job.name, "refused", str(error)))
            continue
        if differing:
            reason = f"{place} holds a job with other settings ({cut_list(differing)}); rename one of them"
            taken.append(Outcome(job.name, "refused", reason))
        else:
            able.append(job)
    return able, taken


def _differing(job: Job, folder: Path, verdicts: Verdicts) -> list[str]:
    """Return which settings of a job differ from those in its folder. Its clip is read only if its length matters."""
    found = other_settings(folder, job.identify, job=job.described())
    if len(found) == 1 and found[0].startswith("data.num_frames:"):
        shorter = cut(job, verdicts.of(job).num_frames)
        return other_settings(folder, shorter.identify, job=shorter.described())
    return found
