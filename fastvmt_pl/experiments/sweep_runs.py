"""The runs of a sweep: every setting on every batch of jobs."""

import json
import math
import shutil
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from fastvmt_pl.callbacks import Costs, Preemption, RunFolder
from fastvmt_pl.clips import Clip, align
from fastvmt_pl.evaluation import LucasKanade
from fastvmt_pl.evaluation.finished_runs import SCORES
from fastvmt_pl.evaluation.scores import score_video
from fastvmt_pl.experiments.experiment import Experiment, Overrides, SweepJob, backbone_of
from fastvmt_pl.experiments.sweep_table import Row, write_csv
from fastvmt_pl.files.atomic import written_whole
from fastvmt_pl.files.locks import PATIENCE, InUseError, locked_file
from fastvmt_pl.files.names import words
from fastvmt_pl.processes.sharing import Failures, failure_of, share, together
from fastvmt_pl.processes.stop_request import StopRequest
from fastvmt_pl.runs.composition import SILENT, compose_transfer_of
from fastvmt_pl.runs.kept_backbone import KeptBackbone
from fastvmt_pl.runs.lightning_cli import TransferCLI
from fastvmt_pl.runs.options import run_loggers
from fastvmt_pl.runs.settings import merged, read_config

VERSION = 2
"""Part of the name of every run's folder: raised when a setting or a score changes its meaning."""
UPDATE_SECONDS = 60.0
"""How often results.csv is written while runs go on."""


@dataclass
class Runs:
    """Every setting on every batch of jobs, for one of the processes that work on a sweep.

    Args:
        plan: The experiment.
        config: File of the transfers' settings.
        jobs: All jobs.
        output: The sweep's folder.
        request: Whether this process was asked to stop.
        number: The process's number; each begins with another backbone, if the settings have several.
    """

    plan: Experiment
    config: Path
    jobs: Sequence[SweepJob]
    output: Path
    request: StopRequest
    number: int = 0

    def __post_init__(self) -> None:
        """Name the folder of each run, and note when this process began."""
        self.failures = Failures(self.output)
        self.backbone = KeptBackbone(self.request)
        self._scored: dict[Path, list[Row]] = {}
        self._next_update = time.monotonic() + UPDATE_SECONDS
        self.folders = {
            (name, start): self.output / "runs" / folder_of(name, overrides) / f"{start:03d}-{len(self._batch(start))}"
            for name, overrides in self.plan.all_settings.items()
            for start in range(0, len(self.jobs), self.plan.batch_size)
        }

    def _batch(self, start: int) -> Sequence[SweepJob]:
        return self.jobs[start : start + self.plan.batch_size]

    def work(self, to_the_end: bool) -> None:
        """Do the runs that nobody else is at.

        Args:
            to_the_end: Wait for what others are at, and take over what they leave when they die.

        Raises:
            Preempted: If this process was asked to stop.
        """
        order = together(self.folders, lambda run: backbone_of(self.plan.all_settings[run[0]]), self.number)
        share(order, self._attempt, self.request, to_the_end=to_the_end)

    def _attempt(self, run: tuple[str, int]) -> bool:
        """Do a run, if it is open; return whether another process is at it."""
        folder, (name, start) = self.folders[run], run
        if not self._is_open(folder):
            return False
        try:
            with locked_file(folder):
                if self._is_open(folder):  # another process may have done it meanwhile
                    _say(f"{name}: jobs {start} to {start + len(self._batch(start)) - 1}")
                    places = range(start, start + len(self._batch(start)))
                    compose = partial(
                        compose_run, self.plan, self.config, self.jobs, self.plan.all_settings[name], places
                    )
                    reason = failure_of(
                        partial(score_run, folder, compose, self.jobs, places, self.backbone, self.request)
                    )
                    if reason is not None:
                        _say(f"failed: {name}, jobs from {start}: {reason}")
                        self.failures.record(folder, reason)
        except InUseError:
            return True
        self._update()
        return False

    def _is_open(self, folder: Path) -> bool:
        return not (folder / SCORES).exists() and self.failures.reason(folder) is None

    def rows(self) -> list[Row]:
        """Return the rows of all runs that are finished."""
        for folder in self.folders.values():
            if folder not in self._scored and (folder / SCORES).exists():
                self._scored[folder] = json.loads((folder / SCORES).read_text(encoding="utf-8"))
        return [
            {"setting": name, "job": start + number, **row}
            for (name, start), folder in self.folders.items()
            for number, row in enumerate(self._scored.get(folder, []))
        ]

    def collect(self) -> list[Row]:
        """Write and return the rows of all runs that are finished, at the latest when a minute's wait is over."""
        table = self.output / "results.csv"
        with ExitStack() as stack:
            with suppress(InUseError):  # a process that was halted must not keep this one from its end
                stack.enter_context(locked_file(table, PATIENCE))  # another may be writing, and have seen less
            rows = self.rows()
            write_csv(table, rows)
        return rows

    def _update(self) -> None:
        """Write the rows from time to time, unless another process is writing them."""
        if time.monotonic() < self._next_update:
            return
        table = self.output / "results.csv"
        with suppress(InUseError), locked_file(table):
            write_csv(table, self.rows())
        self._next_update = time.monotonic() + UPDATE_SECONDS

    def failed(self) -> list[str]:
        """Return which runs failed, and why."""
        reasons = {
            run: self.failures.reason(folder) for run, folder in self.folders.items() if not (folder / SCORES).exists()
        }
        return [f"{name}, jobs from {start}: {reason}" for (name, start), reason in reasons.items() if reason]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def folder_of(name: str, overrides: Overrides) -> str:
    """Return the name of a setting's folder, which says what it overrides, so that a changed setting is another one."""
    described = json.dumps([VERSION, overrides], sort_keys=True)
    return f"{words(name)}-{sha256(described.encode()).hexdigest()[:6]}"


def compose_run(
    plan: Experiment,
    config: Path,
    jobs: Sequence[SweepJob],
    overrides: Overrides,
    places: range,
    trainer: dict[str, Any] | None = None,
    read_clips: bool = True,
) -> TransferCLI:
    """Return the trainer, module and datamodule of the jobs at some places."""
    batch = [jobs[place] for place in places]
    options = {"model.baseline": False, "trainer.devices": 1, "trainer.num_nodes": 1, **plan.common, **overrides}
    options |= {"data.clips": [str(job.clip) for job in batch], "data.prompts": [job.prompt for job in batch]}
    options["data.seed"] = places.start
    defaults = {**SILENT, **(trainer or {})}
    return compose_transfer_of(
        merged(read_config(config), options), defaults, check="clips" if read_clips else "settings"
    )


def score_run(
    folder: Path,
    compose: partial[TransferCLI],
    jobs: Sequence[SweepJob],
    places: range,
    backbone: KeptBackbone,
    request: StopRequest,
) -> None:
    """Run the jobs at some places and write their scores."""
    shutil.rmtree(folder, ignore_errors=True)  # part of a run that was stopped
    callbacks = [Costs(profile_cpu=True), RunFolder(folder), Preemption(request)]
    cli = compose(trainer={"callbacks": callbacks, "logger": run_loggers(folder)})
    backbone.lend(cli, [job.prompt for job in jobs])
    with written_whole(folder / "config.yaml") as path:
        path.write_text(cli.parser.dump(cli.config, skip_link_targets=False))
    cli.trainer.fit(cli.model, cli.datamodule)
    measured = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["jobs"]
    rows = []
    for number, (place, found) in enumerate(zip(places, measured, strict=True)):
        job = jobs[place]
        frames, clip = cli.model.result.frames[number], cli.datamodule.clips[number]
        pair = align(clip, Clip(frames, clip.fps, "output"))
        plain = cli.model.result.baseline
        baseline = None if plain is None else align(clip, Clip(plain[number], clip.fps, "baseline")).output
        scores = score_video(pair.reference, pair.output, LucasKanade(), baseline)
        toy = {} if job.toy is None else asdict(job.toy.judge(frames))
        judged = {name: value if math.isfinite(value) else None for name, value in {**toy, **scores}.items()}
        rows.append({**found, **judged})
    with written_whole(folder / SCORES) as path:
        path.write_text(json.dumps(rows, indent=1) + "\n")
