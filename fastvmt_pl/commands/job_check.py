"""Look at every job of a list before the first one runs: can its clip be read, do its settings go with the model?"""

import argparse
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

from filelock import FileLock
from lightning.fabric.utilities.exceptions import MisconfigurationException

from fastvmt_pl.commands.job_list import Job
from fastvmt_pl.commands.lightning import TransferCLI
from fastvmt_pl.commands.options import one_line
from fastvmt_pl.datamodules import TooShortError
from fastvmt_pl.files import written_whole

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
        cost: What a job costs, to compare it with others: the pixels of all its denoising steps.
    """

    status: Literal["kept", "trimmed", "refused"]
    detail: str = ""
    num_frames: int | None = None
    cost: int = 0


def check_jobs(jobs: Sequence[Job], folder: Path, compose: Compose) -> dict[str, Verdict]:
    """Check all jobs, group by group, unless that was done, by this process or another one, and the clip is the same.

    Args:
        jobs: The jobs.
        folder: Their run's folder, which keeps what was found out. Other processes wait for it.
        compose: Makes their transfers.

    Returns:
        What was found out about each group.
    """
    members: dict[str, list[Job]] = {}
    for job in jobs:
        members.setdefault(job.group, []).append(job)
    path, verdicts = folder / CHECKED, {}
    with FileLock(f"{path}.lock"):
        known = json.loads(path.read_text()) if path.exists() else {}
        for group, some in members.items():
            key = f"{group} {_stamp(some[0].clip)}"
            if key not in known:
                known[key] = asdict(_check(some, compose))
            verdicts[group] = Verdict(**known[key])
        with written_whole(path) as temporary:
            temporary.write_text(json.dumps(known, indent=1) + "\n")
    return verdicts


def _stamp(clip: Path) -> str:
    """Return what changes when a clip does."""
    return f"{clip.stat().st_size} {clip.stat().st_mtime_ns}" if clip.exists() else "missing"


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
    height, width = cli.datamodule.size
    cost: int = cli.datamodule.num_frames * height * width * cli.model.num_steps
    return cost
