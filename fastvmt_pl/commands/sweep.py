"""``fastvmt sweep``: the same jobs under many settings, and what each setting is worth."""

import itertools
import json
import math
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

from fastvmt_pl.callbacks import Costs, Preemption, RunFolder
from fastvmt_pl.commands.experiment import (
    Experiment,
    Overrides,
    SweepJob,
    ToyJobs,
    config_of,
    make_jobs,
    read_experiment,
)
from fastvmt_pl.commands.kept_backbone import KeptBackbone
from fastvmt_pl.commands.lightning import TransferCLI
from fastvmt_pl.commands.options import (
    PATIENCE,
    InUseError,
    as_arguments,
    locked_file,
    read_config,
    run_loggers,
    shared_folder,
    words,
)
from fastvmt_pl.commands.sharing import Failures, failure_of, share
from fastvmt_pl.commands.sweep_table import Row, summarise, write_csv
from fastvmt_pl.datamodules import Clip, align
from fastvmt_pl.datamodules.toy_world import NUM_FRAMES, SIZE
from fastvmt_pl.errors import UserError
from fastvmt_pl.files import written_whole
from fastvmt_pl.identity import Settings, flat, identity_of_overridden
from fastvmt_pl.metrics.scores import score_video
from fastvmt_pl.preemption import StopRequest, listening
from fastvmt_pl.ranks import alone, num_to_start, read_rank, start_ranks, take_own_gpu
from fastvmt_pl.runs import SCORES
from fastvmt_pl.tracking import LucasKanade

VERSION = 1
"""Part of the name of every run's folder: raised when a setting or a score changes its meaning."""


def sweep(experiment: Path, output: Path, devices: int | None = None) -> list[Row]:
    """Run the same jobs under many settings and compare them.

    Any number of processes may work on a sweep, started as those of a list of transfers are; each run is one's.

    Args:
        experiment: YAML file of settings and jobs, such as configs/experiment/reuse.yaml.
        output: Folder for all runs and the results; what is finished there is not done again.
        devices: Processes to start, a device each; as many as the config's trainer.devices if left out.

    Returns:
        A row for each job of each setting, as in results.csv.

    Raises:
        ValueError: If the experiment, a setting or a clip cannot be used; nothing has run then.
        RuntimeError: If some runs failed; the others are done.
        Preempted: If SIGTERM or SIGUSR1 came; the same call goes on.
    """
    plan = read_experiment(experiment)
    config = config_of(plan, experiment)
    rank, request = read_rank(), StopRequest()
    base = read_config(config)
    num_processes = num_to_start(rank, devices, base)
    with listening(request), alone():
        take_own_gpu(rank)
        described = _checked(plan, experiment, config, request)
        same = {"config": yaml.safe_dump(base), "common": yaml.safe_dump(plan.common), "jobs": described}
        with shared_folder(output, _identity, **same):  # other settings have other folders
            jobs = make_jobs(plan, experiment, output / "clips")
        runs = Runs(plan, config, jobs, output, request)
        if num_processes > 1:
            start_ranks(["sweep", str(experiment), str(output)], num_processes, request)
        runs.work(to_the_end=rank.number == 0)
    rows = runs.collect()
    if rank.number:  # the first is there to the end, and says how it went
        return rows
    summary = summarise(rows, plan.reference)
    with written_whole(output / "summary.md") as path:
        path.write_text(summary + "\n", encoding="utf-8")
    print(f"{summary}\n\nthe results lie in {output}")
    failed = runs.failed()
    if failed:
        raise RuntimeError(f"{len(failed)} runs failed: {'; '.join(failed[:3])}")
    return rows


def _identity(files: dict[str, Any]) -> Settings:
    """Return what changes the results of a sweep, given its files; each setting has a folder of its own."""
    settings = identity_of_overridden(files.get("config") or {}, files.get("common") or {})
    return settings | flat({"jobs": files.get("jobs") or []})


def _checked(plan: Experiment, experiment: Path, config: Path, request: StopRequest) -> str:
    """Look at every job under every setting before anything is run or written; return, as YAML, which jobs they are."""
    with tempfile.TemporaryDirectory() as scratch:
        jobs = make_jobs(plan, experiment, Path(scratch))
        starts = range(0, len(jobs), plan.batch_size)
        for overrides, start in itertools.product(plan.all_settings.values(), starts):
            request.check()
            _check_toy(_compose(plan, config, jobs, overrides, start), plan)
        described: str = yaml.safe_dump(
            [{"sha256": sha256(job.content).hexdigest(), "prompt": job.prompt} for job in jobs]
        )
    return described


def _check_toy(cli: TransferCLI, plan: Experiment) -> None:
    """Refuse toy jobs in another geometry than the toy world's, in which their true paths mean nothing."""
    geometry = cli.datamodule.num_frames, *cli.datamodule.size
    if isinstance(plan.jobs, ToyJobs) and geometry != (NUM_FRAMES, SIZE, SIZE):
        raise UserError(
            f"toy jobs have {NUM_FRAMES} frames of {SIZE} x {SIZE}, but a setting has {geometry[0]} of {geometry[1]} x "
            f"{geometry[2]}; leave data.num_frames and data.size alone"
        )


@dataclass
class Runs:
    """Every setting on every batch of jobs, for one of the processes that work on a sweep.

    Args:
        plan: The experiment.
        config: File of the transfers' settings.
        jobs: All jobs.
        output: The sweep's folder.
        request: Whether this process was asked to stop.
    """

    plan: Experiment
    config: Path
    jobs: Sequence[SweepJob]
    output: Path
    request: StopRequest

    def __post_init__(self) -> None:
        """Name the folder of each run, and note when this process began."""
        self.failures = Failures(self.output)
        self.backbone = KeptBackbone([job.prompt for job in self.jobs], self.request)
        self.folders = {
            (name, start): self.output / "runs" / _folder_of(name, overrides) / f"{start:03d}-{len(self._batch(start))}"
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
        share(self.folders, self._attempt, self.request, to_the_end=to_the_end)

    def _attempt(self, run: tuple[str, int]) -> bool:
        """Do a run, if it is open; return whether another process is at it."""
        folder, (name, start) = self.folders[run], run
        if not self._is_open(folder):
            return False
        try:
            with locked_file(folder):
                if self._is_open(folder):  # another process may have done it meanwhile
                    _say(f"{name}: jobs {start} to {start + len(self._batch(start)) - 1}")
                    compose = partial(_compose, self.plan, self.config, self.jobs, self.plan.all_settings[name], start)
                    reason = failure_of(
                        partial(_score, folder, compose, self._batch(start), self.backbone, self.request)
                    )
                    if reason is not None:
                        _say(f"failed: {name}, jobs from {start}: {reason}")
                        self.failures.record(folder, reason)
        except InUseError:
            return True
        self.collect()
        return False

    def _is_open(self, folder: Path) -> bool:
        return not (folder / SCORES).exists() and self.failures.reason(folder) is None

    def collect(self) -> list[Row]:
        """Write and return the rows of all runs that are finished."""
        table = self.output / "results.csv"
        with locked_file(table, PATIENCE):  # so that a process which has seen less does not write last
            rows = [
                {"setting": name, "job": start + number, **row}
                for (name, start), folder in self.folders.items()
                if (folder / SCORES).exists()
                for number, row in enumerate(json.loads((folder / SCORES).read_text(encoding="utf-8")))
            ]
            write_csv(table, rows)
        return rows

    def failed(self) -> list[str]:
        """Return which runs failed, and why."""
        reasons = {
            run: self.failures.reason(folder) for run, folder in self.folders.items() if not (folder / SCORES).exists()
        }
        return [f"{name}, jobs from {start}: {reason}" for (name, start), reason in reasons.items() if reason]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _folder_of(name: str, overrides: Overrides) -> str:
    """Return the name of a setting's folder, which says what it overrides, so that a changed setting is another one."""
    described = json.dumps([VERSION, overrides], sort_keys=True)
    return f"{words(name)}-{sha256(described.encode()).hexdigest()[:6]}"


def _compose(
    plan: Experiment,
    config: Path,
    jobs: Sequence[SweepJob],
    overrides: Overrides,
    start: int,
    trainer: dict[str, Any] | None = None,
) -> TransferCLI:
    """Return a batch's trainer, module and datamodule."""
    batch = jobs[start : start + plan.batch_size]
    options = {"model.baseline": False, "trainer.devices": 1, "trainer.num_nodes": 1, **plan.common, **overrides}
    options |= {"data.clips": [str(job.clip) for job in batch], "data.prompts": [job.prompt for job in batch]}
    options["data.seed"] = start
    nulls = [f"--{name}=null" for name, value in options.items() if value is None]  # which as_arguments leaves out
    defaults = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        **(trainer or {}),
    }
    args = [*as_arguments(config, options), *nulls]
    cli = TransferCLI(args, trainer_defaults=defaults, run=False, save_config_callback=None)
    cli.model.check_trainer(cli.trainer)
    return cli


def _score(
    folder: Path,
    compose: partial[TransferCLI],
    jobs: Sequence[SweepJob],
    backbone: KeptBackbone,
    request: StopRequest,
) -> None:
    """Run a batch of jobs and write its scores."""
    shutil.rmtree(folder, ignore_errors=True)  # part of a run that was stopped
    callbacks = [Costs(profile_cpu=True), RunFolder(folder), Preemption(request)]
    cli = compose(trainer={"callbacks": callbacks, "logger": run_loggers(folder)})
    backbone.lend(cli)
    with written_whole(folder / "config.yaml") as path:
        path.write_text(cli.parser.dump(cli.config, skip_link_targets=False))
    cli.trainer.fit(cli.model, cli.datamodule)
    measured = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["jobs"]
    rows = []
    for number, (job, found) in enumerate(zip(jobs, measured, strict=True)):
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
