"""Look at every job of a list before the first one runs: can its clip be read, do its settings go with the model?"""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout
from lightning.fabric.utilities.exceptions import MisconfigurationException

from fastvmt_pl.commands.job_list import Job, stamp_of
from fastvmt_pl.commands.lightning import TransferCLI
from fastvmt_pl.commands.options import one_line
from fastvmt_pl.datamodules import TooShortError
from fastvmt_pl.files import written_whole
from fastvmt_pl.preemption import StopRequest

CHECKED = "checked.json"
SHORTEST = 5
"""Frames below which a clip has no motion to speak of."""
Compose = Callable[[Sequence[Job]], TransferCLI]
"""Makes the transfer of jobs of a group, without weights; raises ``ValueError`` if it cannot be."""


@dataclass(frozen=True)
class Verdict:
    """What was found out about the jobs of a group.

    Attributes:
        status: Whether they can run, or can with fewer frames.
        detail: Why not, or why fewer, and what to change.
        num_frames: How many frames they are cut to.
        cost: What a job costs, to compare it with others: its pixels, as often as the model sees them.
    """

    status: Literal["kept", "trimmed", "refused"]
    detail: str = ""
    num_frames: int | None = None
    cost: int = 0


def check_jobs(jobs: Sequence[Job], folder: Path, compose: Compose, request: StopRequest) -> dict[str, Verdict]:
    """Check all jobs, group by group, but for those that were found good before, by whichever process.

    Args:
        jobs: The jobs.
        folder: Their run's folder, which keeps what was found good. Other processes wait for it.
        compose: Makes their transfers.
        request: Whether this process was asked to stop.

    Returns:
        What was found out about each group.

    Raises:
        Preempted: If this process was asked to stop.
    """
    members: dict[str, list[Job]] = {}
    for job in jobs:
        members.setdefault(job.group, []).append(job)
    path, verdicts = folder / CHECKED, {}
    with _locked(Path(f"{path}.lock"), request):
        known = json.loads(path.read_text()) if path.exists() else {}
        try:
            for group, some in members.items():
                request.check()
                key = f"{group} {stamp_of(some[0].clip)}"
                verdicts[group] = Verdict(**known[key]) if key in known else _check(some, compose)
                if verdicts[group].status != "refused":  # what was in the way may be mended by the next start
                    known[key] = asdict(verdicts[group])
        finally:
            with written_whole(path) as temporary:
                temporary.write_text(json.dumps(known, indent=1) + "\n")
    return verdicts


@contextmanager
def _locked(path: Path, request: StopRequest) -> Iterator[None]:
    """Wait for a lock for as long as this process is not asked to stop."""
    lock = FileLock(path)
    while not lock.is_locked:
        request.check()
        with suppress(Timeout):
            lock.acquire(timeout=1)
    try:
        yield
    finally:
        lock.release()


def _check(jobs: Sequence[Job], compose: Compose) -> Verdict:
    """Look at the jobs of a group; a clip that is too short is used with as many frames as it has."""
    try:
        return Verdict("kept", cost=_cost(compose(jobs)))
    except TooShortError as error:
        if error.num_frames < SHORTEST:
            return Verdict("refused", str(error))
        found = _check([cut(job, error.num_frames) for job in jobs], compose)
        return found if found.status == "refused" else Verdict("trimmed", str(error), error.num_frames, found.cost)
    except (ValueError, OSError, argparse.ArgumentError, MisconfigurationException) as error:
        return Verdict("refused", one_line(str(error)))


def cut(job: Job, num_frames: int | None) -> Job:
    """Return a job with so many frames; ``None`` is its own number."""
    return job if num_frames is None else replace(job, settings={**job.settings, "data.num_frames": num_frames})


def _cost(cli: TransferCLI) -> int:
    module, (height, width) = cli.model, cli.datamodule.size
    times = module.num_steps * (1 if module.guidance_scale == 1 else 2) * (2 if module.baseline else 1)
    times += module.num_guided_steps * module.num_inner_steps
    cost: int = cli.datamodule.num_frames * height * width * times
    return cost
