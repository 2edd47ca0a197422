"""Read what a transfer has written: see :class:`~fastvmt_pl.callbacks.RunFolder`."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any


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


def find_runs(folder: Path) -> list[Run]:
    """Return the finished runs in a folder and its sub-folders.

    Raises:
        ValueError: If there are none, or what one has written cannot be read.
    """
    found = []
    for path in sorted(folder.rglob("metrics.json")):
        try:
            metrics = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise ValueError(f"{path} cannot be read ({error}); run the transfer again") from error
        if isinstance(metrics, dict) and isinstance(metrics.get("jobs"), list):
            found.append(Run(path.parent, metrics))
    if not found:
        raise ValueError(f"{folder} holds no finished run of fastvmt transfer; give another folder")
    return found
