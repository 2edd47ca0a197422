"""The table of a sweep: a row for each finished job."""

import json
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from fastvmt_pl.callbacks.run_folder import METRICS
from fastvmt_pl.evaluation.finished_runs import SCORES
from fastvmt_pl.experiments.summary import Row
from fastvmt_pl.experiments.trials import Trial
from fastvmt_pl.files.locks import PATIENCE, InUseError, locked_file
from fastvmt_pl.joblists.job_outcomes import write_csv


@dataclass
class ResultsTable:
    """``results.csv`` of a sweep: what every finished job measured, and how it scored.

    Args:
        folder: The sweep's folder.
        trials: All trials, in the order of the rows.
        update_seconds: How often the table is written while jobs run.
        patience: Seconds to wait at the end for another process that is writing it.
    """

    folder: Path
    trials: Sequence[Trial]
    update_seconds: float = 60.0
    patience: float = PATIENCE

    def __post_init__(self) -> None:
        """Begin the wait for the first update."""
        self.path = self.folder / "results.csv"
        self._found: dict[str, Row] = {}
        self._updated = time.monotonic()

    def rows(self) -> list[Row]:
        """Return the rows of all jobs that are finished."""
        for trial in self.trials:
            folder = self.folder / "jobs" / trial.job.name
            if trial.job.name not in self._found and (folder / METRICS).exists():
                (measured,) = json.loads((folder / METRICS).read_text(encoding="utf-8"))["jobs"]
                (scores,) = json.loads((folder / SCORES).read_text(encoding="utf-8"))
                own = {"setting": trial.setting, "job": trial.number}
                self._found[trial.job.name] = {**own, **measured, **scores}
        return [self._found[trial.job.name] for trial in self.trials if trial.job.name in self._found]

    def update(self) -> None:
        """Write the table from time to time, unless another process is writing it."""
        if time.monotonic() < self._updated + self.update_seconds:
            return
        with suppress(InUseError), locked_file(self.path):
            self._write()
        self._updated = time.monotonic()

    def finish(self) -> list[Row]:
        """Write the table and return its rows; a process that was halted while it wrote is waited for only so long."""
        with ExitStack() as stack:
            with suppress(InUseError):
                stack.enter_context(locked_file(self.path, self.patience))
            return self._write()

    def _write(self) -> list[Row]:
        rows = self.rows()  # no sooner than the lock is held: the other process may have seen more
        write_csv(self.path, rows)
        return rows
