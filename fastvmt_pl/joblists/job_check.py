"""Look at the jobs of a list: do their settings go with the model, can their clips be read?"""

import argparse
import json
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Literal

from fastvmt_pl.clips import ClipError, TooShortError, check_file
from fastvmt_pl.errors import UserError, one_line
from fastvmt_pl.files.atomic import written_whole
from fastvmt_pl.joblists.job_list import Job, Refusal, stamp_of
from fastvmt_pl.processes.sharing import now_of
from fastvmt_pl.processes.stop_request import StopRequest
from fastvmt_pl.runs.lightning_cli import TransferCLI

SHORTEST = 5
"""Frames below which a clip has no motion to speak of."""
NUM_KINDS = 50
"""Kinds of settings that are checked before anything runs; each takes a fraction of a second."""
BAD = (UserError, OSError, argparse.ArgumentError)
"""What composing a transfer raises where its settings or its clip cannot be used."""


Compose = Callable[[Sequence[Job], bool], TransferCLI]
"""Makes the transfer of jobs of a group, without weights, and with its clip or only with its settings."""


@dataclass(frozen=True)
class Verdict:
    """What was found out about the jobs of a group.

    Attributes:
        status: Whether they can run, or can with fewer frames.
        detail: Why not, or why fewer, and what to change.
        num_frames: How many frames they are cut to.
    """

    status: Literal["kept", "trimmed", "refused"]
    detail: str = ""
    num_frames: int | None = None


def check_settings(
    jobs: Sequence[Job], compose: Compose, request: StopRequest
) -> tuple[list[Job], list[Refusal], dict[str, int]]:
    """Check what can be checked without reading clips: that they are files, and the settings of each kind of job.

    Of more than :data:`NUM_KINDS` kinds, the last ones are left to :class:`Checks`.

    Args:
        jobs: Jobs of a list.
        compose: Makes their transfers.
        request: Whether this process was asked to stop.

    Returns:
        The jobs without a fault, those with one, and what a job of each kind costs, to compare it with others: its
        pixels, as often as the model sees them.

    Raises:
        Preempted: If this process was asked to stop.
    """
    wrong = {clip: reason for clip in {job.clip for job in jobs} if (reason := _fault_of_file(clip)) is not None}
    first = {job.kind: job for job in reversed(jobs) if job.clip not in wrong}
    costs, faults = dict[str, int](), dict[str, str]()
    for kind in list(dict.fromkeys(job.kind for job in jobs if job.kind in first))[:NUM_KINDS]:
        request.check()
        try:
            costs[kind] = _cost(compose([first[kind]], False))
        except BAD as error:
            faults[kind] = one_line(str(error))
    reasons = {job.name: wrong.get(job.clip) or faults.get(job.kind) for job in jobs}
    refused = [Refusal(name, reason) for name, reason in reasons.items() if reason is not None]
    return [job for job in jobs if reasons[job.name] is None], refused, costs


def _fault_of_file(clip: Path) -> str | None:
    try:
        check_file(clip)
    except (ClipError, OSError) as error:
        return str(error)
    return None


class Checks:
    """What is known of the groups of a list: whether their clips can be read, and how far.

    A group is checked when a process comes to its first job. What was found is kept in a file for each group, for
    other processes and later starts; a refusal only for processes that had begun by then, since what is wrong may have
    been put right by the next start.

    Args:
        folder: The list's folder.
        compose: Makes the transfers of jobs.
    """

    def __init__(self, folder: Path, compose: Compose) -> None:
        self.folder, self.compose = folder / "checked", compose
        self.begun = now_of(folder)
        self._found: dict[str, Verdict] = {}

    def known(self, job: Job) -> Verdict | None:
        """Return what was found out about a job's group, here or by another process, if anything was."""
        if job.group not in self._found:
            path = self._path(job)
            if path.exists():
                found = Verdict(**json.loads(path.read_text(encoding="utf-8")))
                if found.status != "refused" or path.stat().st_mtime_ns >= self.begun:
                    self._found[job.group] = found
        return self._found.get(job.group)

    def verdict(self, jobs: Sequence[Job]) -> Verdict:
        """Return what is known of the group of some jobs, or look at them, and read their clip."""
        found = self.known(jobs[0])
        if found is None:
            found = self._found[jobs[0].group] = _check(jobs, self.compose)
            with suppress(OSError), written_whole(self._path(jobs[0])) as path:  # the disk may be full
                path.write_text(json.dumps(asdict(found)) + "\n", encoding="utf-8")
        return found

    def _path(self, job: Job) -> Path:
        return self.folder / f"{sha256(f'{job.group} {stamp_of(job.clip)}'.encode()).hexdigest()[:16]}.json"


def _check(jobs: Sequence[Job], compose: Compose) -> Verdict:
    """Look at jobs of a group; a clip that is too short is used with as many frames as it has."""
    try:
        compose(jobs, True)
    except TooShortError as error:
        if error.num_frames < SHORTEST:
            return Verdict("refused", str(error))
        found = _check(cut(jobs, error.num_frames), compose)
        return found if found.status == "refused" else Verdict("trimmed", str(error), error.num_frames)
    except BAD as error:
        return Verdict("refused", one_line(str(error)))
    return Verdict("kept")


def cut(jobs: Iterable[Job], num_frames: int | None) -> list[Job]:
    """Return jobs with so many frames; ``None`` is their own number."""
    if num_frames is None:
        return list(jobs)
    return [replace(job, settings={**job.settings, "data.num_frames": num_frames}) for job in jobs]


def _cost(cli: TransferCLI) -> int:
    module, (height, width) = cli.model, cli.datamodule.size
    times = module.num_steps * (1 if module.guidance_scale == 1 else 2) * (2 if module.baseline else 1)
    times += module.num_guided_steps * module.num_inner_steps
    cost: int = cli.datamodule.num_frames * height * width * times
    return cost
