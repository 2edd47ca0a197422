"""Read the folders of finished transfers, see :class:`~fastvmt_pl.callbacks.RunFolder`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastvmt_pl.errors import UserError

SCORES = "scores.json"
"""File of a run of a sweep: a row for each job, with its scores and costs."""


@dataclass(frozen=True)
class Run:
    """A finished transfer.

    Attributes:
        folder: Its folder.
        metrics: The content of its ``metrics.json``.
    """

    folder: Path
    metrics: dict[str, Any]

    @property
    def job_folders(self) -> list[Path]:
        """The folder of each job's videos."""
        jobs = self.metrics["jobs"]
        return [self.folder] if len(jobs) == 1 else [self.folder / f"{number:03d}" for number in range(len(jobs))]

    @property
    def scores(self) -> list[dict[str, float | None]] | None:
        """The scores and costs of each job in a sweep; ``None`` if the run does not belong to one."""
        path = self.folder / SCORES
        if not path.exists():
            return None
        rows = json.loads(path.read_text(encoding="utf-8"))
        return [{name: x for name, x in row.items() if x is None or isinstance(x, float | int)} for row in rows]

    @property
    def logs(self) -> Path:
        """The folder of its logs, which jobs of a batch share."""
        return Path(self.folder / self.metrics.get("logs", "."))


def find_runs(folders: Sequence[Path]) -> tuple[list[Run], list[str]]:
    """Return the finished runs in folders and their sub-folders, each once, and the problems with other runs."""
    found, problems = dict[Path, Run](), []
    for folder in folders:
        runs = []
        for path in sorted(folder.rglob("metrics.json")):
            try:
                runs += _run(path)
            except (OSError, ValueError) as error:
                problems.append(f"{path} cannot be read ({error})")
        if not runs:
            problems.append(f"{folder} holds no finished run of fastvmt transfer")
        found |= {run.folder.resolve(): run for run in runs}
    return list(found.values()), problems


def _run(path: Path) -> list[Run]:
    """Return the run of a ``metrics.json``; none if the file is not from a transfer."""
    metrics = json.loads(path.read_text(encoding="utf-8"))
    jobs = metrics.get("jobs") if isinstance(metrics, dict) else None
    if not isinstance(jobs, list):
        return []
    if not all(isinstance(job, dict) and {"prompt", "seed"} <= set(job) for job in jobs):
        raise UserError("a job has no prompt or no seed")
    return [Run(path.parent, metrics)]
