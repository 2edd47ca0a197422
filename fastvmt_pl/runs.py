"""Read what a transfer has written: see :class:`~fastvmt_pl.callbacks.RunFolder`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn


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
    def logs(self) -> Path:
        """The folder of its logs, which jobs of a list that ran side by side have in common."""
        return Path(self.folder / self.metrics.get("logs", "."))


def find_runs(folder: Path) -> list[Run]:
    """Return the finished runs in a folder and its sub-folders; what cannot be read is named in a warning.

    Raises:
        ValueError: If there are none.
    """
    found, problems = [], []
    for path in sorted(folder.rglob("metrics.json")):
        try:
            metrics = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            problems.append(f"{path} cannot be read ({error})")
            continue
        if isinstance(metrics, dict) and isinstance(metrics.get("jobs"), list):
            found.append(Run(path.parent, metrics))
    if not found:
        raise ValueError("; ".join([f"{folder} holds no finished run of fastvmt transfer", *problems]))
    for problem in problems:
        rank_zero_warn(f"left out: {problem}")
    return found
