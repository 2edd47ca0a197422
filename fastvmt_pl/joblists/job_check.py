"""Check jobs before they run: their settings, and whether their clips can be read."""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from fastvmt_pl.clips import check_file, read_clip, read_image
from fastvmt_pl.errors import UserError, one_line
from fastvmt_pl.joblists.job import Job, Outcome, stamp_of
from fastvmt_pl.processes.stop_request import StopRequest
from fastvmt_pl.runs.lightning_cli import TransferCLI

NUM_KINDS = 50
"""Largest number of kinds of settings checked before anything runs; each takes a fraction of a second."""
BAD = (UserError, OSError, argparse.ArgumentError)
"""Errors raised if a job's settings or clip cannot be used."""


class Needs(NamedTuple):
    """What the settings of a job need.

    Attributes:
        frames: Arguments of :func:`~fastvmt_pl.clips.read_clip`.
        size: Height and width in pixels.
        cost: Relative cost: pixels times forward passes.
    """

    frames: dict[str, Any]
    size: tuple[int, int]
    cost: int


class JobCheck:
    """Checks jobs: the same settings, and the same frames of a clip, only once.

    Args:
        compose: Composes the transfer of a job, without reading weights or clip.
    """

    def __init__(self, compose: Callable[[Job], TransferCLI]) -> None:
        self.compose = compose
        self._needs: dict[str, Needs] = {}
        self._readable: set[tuple[Any, ...]] = set()

    def needs(self, job: Job) -> Needs:
        """Check the settings of a job, and return what they need.

        Raises:
            UserError: If a setting cannot be used.
            argparse.ArgumentError: If a setting cannot be read.
        """
        if job.shared not in self._needs:
            self._needs[job.shared] = _needs(self.compose(job))
        return self._needs[job.shared]

    def read(self, job: Job) -> None:
        """Check the settings of a job, and read its clip.

        Raises:
            UserError: If a setting cannot be used.
            argparse.ArgumentError: If a setting cannot be read.
            ClipError: If the clip cannot be used; a :class:`~fastvmt_pl.clips.TooShortError` if it is too short.
        """
        frames = self.needs(job).frames
        key = job.clip, stamp_of(job.clip), *frames.values()
        if key not in self._readable:
            read_clip(job.clip, **frames)
            self._readable.add(key)


def _needs(cli: TransferCLI) -> Needs:
    module, data = cli.model, cli.datamodule
    height, width = data.size
    times = module.num_steps * (1 if module.guidance_scale == 1 else 2) * (2 if module.baseline else 1)
    times += module.num_guided_steps * module.num_inner_steps
    return Needs(data.reading, (height, width), data.num_frames * height * width * times)


def check_settings(
    jobs: Sequence[Job], check: JobCheck, request: StopRequest
) -> tuple[list[Job], list[Outcome], dict[str, int]]:
    """Check what can be checked without reading clips: that they exist, and the settings of each kind of job.

    Only the first :data:`NUM_KINDS` kinds are checked; the others are checked when their jobs run.

    Args:
        jobs: Jobs of a list.
        check: Checks each kind.
        request: Whether this process was asked to stop.

    Returns:
        The jobs that passed, the outcomes of the others, and the cost of a job of each kind.

    Raises:
        Preempted: If this process was asked to stop.
    """
    looks: dict[Path, Callable[[Path], object]] = {job.clip: check_file for job in jobs}
    looks |= {job.image: read_image for job in jobs if job.image is not None}
    wrong = {file: reason for file, look in looks.items() if (reason := _fault_of_file(look, file)) is not None}
    first = {job.kind: job for job in reversed(jobs) if not wrong.keys() & job.files}
    costs, faults = dict[str, int](), dict[str, str]()
    for kind in list(dict.fromkeys(job.kind for job in jobs if job.kind in first))[:NUM_KINDS]:
        request.check()
        try:
            costs[kind] = check.needs(first[kind]).cost
        except BAD as error:
            faults[kind] = one_line(str(error))
    reasons = {
        job.name: next((wrong[file] for file in job.files if file in wrong), faults.get(job.kind)) for job in jobs
    }
    refused = [Outcome(name, "refused", reason) for name, reason in reasons.items() if reason is not None]
    return [job for job in jobs if reasons[job.name] is None], refused, costs


def _fault_of_file(look: Callable[[Path], object], file: Path) -> str | None:
    try:
        look(file)
    except (UserError, OSError) as error:
        return str(error)
    return None


def cut(job: Job, num_frames: int | None) -> Job:
    """Return a job limited to a number of frames; ``None`` keeps its own number."""
    return job if num_frames is None else replace(job, settings={**job.settings, "data.num_frames": num_frames})
