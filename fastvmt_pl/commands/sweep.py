"""``fastvmt sweep``: the same jobs under many settings, and what each setting is worth."""

import csv
import itertools
import json
import math
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from fastvmt_pl.bootstrap import interval_of_mean
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
from fastvmt_pl.commands.job_queue import BROKEN
from fastvmt_pl.commands.lightning import TransferCLI
from fastvmt_pl.commands.options import (
    PATIENCE,
    InUseError,
    as_arguments,
    locked_file,
    run_loggers,
    shared_folder,
    slug,
)
from fastvmt_pl.datamodules import Clip, align
from fastvmt_pl.datamodules.toy_tracker import SHARES
from fastvmt_pl.datamodules.toy_world import NUM_FRAMES, SIZE
from fastvmt_pl.files import written_whole
from fastvmt_pl.metrics.scores import score_video
from fastvmt_pl.preemption import Preempted, StopRequest, listening
from fastvmt_pl.ranks import alone, num_to_start, read_rank, start_ranks, take_own_gpu
from fastvmt_pl.runs import SCORES
from fastvmt_pl.tracking import LucasKanade

Row = dict[str, Any]


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
    num_processes = num_to_start(rank, devices, config)
    with listening(request), alone():
        take_own_gpu(rank)
        described = _checked(plan, experiment, config, request)
        base = yaml.safe_load(config.read_text(encoding="utf-8"))  # without its comments
        same = {"config": yaml.safe_dump(base), "common": yaml.safe_dump(plan.common), "jobs": described}
        with shared_folder(output, **same):  # other settings have other folders
            jobs = make_jobs(plan, experiment, output / "clips")
        if num_processes > 1:
            start_ranks(["sweep", str(experiment), str(output)], num_processes, request)
        rows, failures = _run_all(plan, config, jobs, output, request, to_the_end=rank.number == 0)
    if rank.number:  # the first is there to the end, and says how it went
        return rows
    summary = summarise(rows, plan.reference)
    with written_whole(output / "summary.md") as path:
        path.write_text(summary + "\n", encoding="utf-8")
    print(f"{summary}\n\nthe results lie in {output}")
    if failures:
        raise RuntimeError(f"{len(failures)} runs failed: {'; '.join(failures[:3])}")
    return rows


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
        raise ValueError(
            f"toy jobs have {NUM_FRAMES} frames of {SIZE} x {SIZE}, but a setting has {geometry[0]} of {geometry[1]} x "
            f"{geometry[2]}; leave data.num_frames and data.size alone"
        )


def _run_all(
    plan: Experiment,
    config: Path,
    jobs: Sequence[SweepJob],
    output: Path,
    request: StopRequest,
    to_the_end: bool,
) -> tuple[list[Row], list[str]]:
    """Run every setting on every batch of jobs, as far as nobody else does.

    Args:
        plan: The experiment.
        config: File of the transfers' settings.
        jobs: All jobs.
        output: The sweep's folder.
        request: Whether this process was asked to stop.
        to_the_end: Wait for what others are at, and take over what they leave when they fail or die.

    Returns:
        All rows that there are then, and what failed here.
    """
    failures = dict[Path, str]()
    console = Console(stderr=True, markup=False, highlight=False)
    parts = {start: jobs[start : start + plan.batch_size] for start in range(0, len(jobs), plan.batch_size)}
    batches = {
        (name, start): output / "runs" / _folder_of(name, overrides) / f"{start:03d}-{len(batch)}"
        for name, overrides in plan.all_settings.items()
        for start, batch in parts.items()
    }
    while True:
        taken = False
        for (name, start), folder in batches.items():
            request.check()
            if folder in failures or (folder / SCORES).exists():
                continue
            batch = parts[start]
            compose = partial(_compose, plan, config, jobs, plan.all_settings[name], start)
            try:
                with locked_file(folder):
                    if not (folder / SCORES).exists():  # another process may have finished it meanwhile
                        console.print(f"{name}: jobs {start} to {start + len(batch) - 1}")
                        _score(folder, compose, batch, request)
            except InUseError:
                taken = True
            except (Preempted, BROKEN):  # a broken device is no fault of the setting: others take it
                raise
            except (OSError, RuntimeError, ValueError) as error:
                failures[folder] = f"{name}, jobs from {start}: {error}"
                console.print(f"failed: {failures[folder]}")
            else:
                _collect(batches, output / "results.csv")
        if not (taken and to_the_end):
            return _collect(batches, output / "results.csv"), list(failures.values())
        time.sleep(0.5)


def _collect(batches: Mapping[tuple[str, int], Path], table: Path) -> list[Row]:
    """Write and return the scores of all batches that are finished."""
    with locked_file(table, PATIENCE):  # so that a process which has seen less does not write last
        rows = _rows(batches)
        _write_csv(table, rows)
    return rows


def _rows(batches: Mapping[tuple[str, int], Path]) -> list[Row]:
    """Return the scores of all batches that are finished."""
    return [
        {"setting": name, "job": start + number, **row}
        for (name, start), folder in batches.items()
        if (folder / SCORES).exists()
        for number, row in enumerate(json.loads((folder / SCORES).read_text(encoding="utf-8")))
    ]


def _folder_of(name: str, overrides: Overrides) -> str:
    """Return the name of a setting's folder, which says what it overrides, so that a changed setting is another one."""
    return f"{slug(name)}-{sha256(json.dumps(overrides, sort_keys=True).encode()).hexdigest()[:6]}"


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
    return TransferCLI(args, trainer_defaults=defaults, run=False, save_config_callback=None)


def _score(folder: Path, compose: partial[TransferCLI], jobs: Sequence[SweepJob], request: StopRequest) -> None:
    """Run a batch of jobs and write its scores."""
    shutil.rmtree(folder, ignore_errors=True)  # part of a run that was stopped
    callbacks = [Costs(profile_cpu=True), RunFolder(folder), Preemption(request)]
    cli = compose(trainer={"callbacks": callbacks, "logger": run_loggers(folder)})
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


def _write_csv(path: Path, rows: Sequence[Row]) -> None:
    columns = list(dict.fromkeys(name for row in rows for name in row))
    with written_whole(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(rows)


def summarise(rows: Sequence[Row], reference: str) -> str:
    """Return a Markdown table: each setting's means with their 95 % bootstrap intervals, and paired differences.

    Args:
        rows: A row for each job of each setting.
        reference: The setting that the others are compared with, job by job, by the path error where it is known and by
            the local motion fidelity elsewhere.
    """
    known = any(row.get("path_error") is not None for row in rows)
    judged = "path_error" if known else "local_motion_fidelity"
    shown = [
        judged,
        *(name for name in (*SHARES, "motion_fidelity", "relative_flow_error") if name in (rows or [{}])[0]),
    ]
    costs = ("gradients_computed", "seconds", "gradient_peak_mib")
    head = ["setting", *shown, *costs, f"{judged} less that of {reference}"]
    lines = [head, ["---"] * len(head)]
    by_setting: dict[str, dict[int, Row]] = {}
    for row in rows:
        by_setting.setdefault(row["setting"], {})[row["job"]] = row
    for name, found in by_setting.items():
        cells = [_mean([row[score] for row in found.values()], score in SHARES) for score in shown]
        cells += [_plain([row[cost] for row in found.values()]) for cost in costs]
        others = by_setting.get(reference, {})
        pairs = [(found[job][judged], others[job][judged]) for job in found if job in others]
        less = [mine - theirs for mine, theirs in pairs if mine is not None and theirs is not None]
        lines.append([name, *cells, "" if name == reference else _mean(less, False)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _mean(values: Sequence[float | int | None], percent: bool) -> str:
    known = [value for value in values if value is not None]
    if len(known) < 2:  # too few for an interval
        return (f"{known[0]:.1%}" if percent else f"{known[0]:.3f}") if known else ""
    form = "{:.1%} [{:.1%}, {:.1%}]" if percent else "{:.3f} [{:.3f}, {:.3f}]"
    return form.format(*interval_of_mean(known))


def _plain(values: Sequence[float | int | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{sum(known) / len(known):.1f}" if known else ""
