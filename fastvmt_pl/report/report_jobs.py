"""Read finished runs for a report."""

import base64
import csv
import json
import math
import os
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from fastvmt_pl.clips import read_pair
from fastvmt_pl.errors import UserError
from fastvmt_pl.evaluation import LucasKanade
from fastvmt_pl.evaluation.finished_runs import Run
from fastvmt_pl.evaluation.scores import score_video
from fastvmt_pl.report.motion_overlay import motion_overlay
from fastvmt_pl.report.report_job import Job

Track = Callable[[Sequence[Any]], Iterable[Any]]
"""Yields items one after the other."""
VIDEOS = ("reference", "baseline", "output")
MEASURES = (
    "gradients_computed",
    "gradients_reused",
    "seconds",
    "gradient_peak_mib",
    "attention_flow_error",
    "baseline_attention_flow_error",
)
"""What a run has measured itself, in the order of the table."""


def collect(runs: Sequence[Run], track: Track = iter) -> tuple[list[Job], list[str]]:
    """Read and score every job of some runs; return the jobs, and why others are not among them.

    Args:
        runs: Finished runs.
        track: Yields the jobs' places one after the other, and may show how far it is.
    """
    jobs, problems, settings = list[Job](), list[str](), list[dict[str, str]]()
    for run in runs:
        try:
            settings.append(_settings(run.folder))
        except (OSError, ValueError, yaml.YAMLError) as error:
            problems.append(f"the settings of {run.folder}: config.yaml cannot be read ({error})")
            settings.append({})
    root = os.path.commonpath([run.folder.parent.resolve() for run in runs] or [Path()])
    places = [
        (run, number, folder, own)
        for run, own in zip(runs, differing(settings), strict=True)
        for number, folder in enumerate(run.job_folders)
    ]
    for run, number, folder, own in track(places):
        try:
            jobs.append(_job(run, number, folder, own, os.path.relpath(folder.resolve(), root)))
        except (OSError, RuntimeError, UserError) as error:
            problems.append(str(error))
    return jobs, problems


def _job(run: Run, number: int, folder: Path, settings: dict[str, str], place: str) -> Job:
    files = {name: folder / f"{name}.mp4" for name in VIDEOS if (folder / f"{name}.mp4").exists()}
    for name in ("reference", "output"):
        if name not in files:
            raise UserError(f"{folder} has no {name}.mp4; run its transfer again")
    pairs = {name: read_pair(files["reference"], file) for name, file in files.items()}
    pair, baseline = pairs["output"], pairs.get("baseline")
    own = run.metrics["jobs"][number]
    scores: dict[str, float | None]
    if run.scores is not None:
        scores = {name: value for name, value in run.scores[number].items() if name not in (*MEASURES, "seed")}
    else:
        plain = None if baseline is None else baseline.output
        scores = {**score_video(pair.reference, pair.output, LucasKanade(), plain)}
    measured = {name: float(own[name]) for name in MEASURES if own.get(name) is not None}
    return Job(
        name=place,
        prompt=own["prompt"],
        clip=Path(str(own.get("clip", ""))).name,
        settings={**settings, "seed": str(own["seed"])},
        scores={name: x for name, x in {**scores, **measured}.items() if x is not None and math.isfinite(x)},
        videos={name: _data_url(file) for name, file in files.items()},
        overlays={name: motion_overlay(pair.output) for name, pair in pairs.items()},
        curves=_curves(run.logs),
        fps=pair.fps,
    )


def _data_url(path: Path) -> str:
    return f"data:video/mp4;base64,{base64.b64encode(path.read_bytes()).decode()}"


def _settings(folder: Path) -> dict[str, str]:
    """Return a run's settings by their dotted names; none if it has kept none."""
    path = folder / "config.yaml"
    return flattened(yaml.safe_load(path.read_text(encoding="utf-8"))) if path.exists() else {}


def flattened(config: Any, prefix: str = "") -> dict[str, str]:
    """Return nested settings by dotted names, each as JSON; a class goes by its name.

    >>> flattened({"a": {"b": 1}, "c": [2, None]})
    {'a.b': '1', 'c': '[2, null]'}
    >>> flattened({"d": [{"class_path": "package.Loss", "init_args": {"weight": 2}}]})
    {'d': 'Loss', 'd.Loss.weight': '2'}
    """
    if isinstance(config, dict) and "class_path" in config:
        config = [config]
    if isinstance(config, list) and config and all(isinstance(one, dict) and "class_path" in one for one in config):
        names = [one["class_path"].rsplit(".", 1)[-1] for one in config]
        parts = [
            flattened(one.get("init_args", {}), f"{prefix}.{name}") for one, name in zip(config, names, strict=True)
        ]
        return {prefix: ", ".join(names), **{name: value for part in parts for name, value in part.items()}}
    if not isinstance(config, dict):
        return {prefix: json.dumps(config, default=str)}
    parts = [flattened(value, f"{prefix}.{name}" if prefix else str(name)) for name, value in config.items()]
    return {name: value for part in parts for name, value in part.items()}


def differing(settings: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Return of each run's settings those that are not the same in all of them that have kept any.

    Without what is true of each job by itself, and what follows from another setting.

    >>> differing([{"a": "1", "b": "2"}, {"a": "1", "b": "3"}])
    [{'b': '2'}, {'b': '3'}]
    >>> differing([{"a": "1"}, {"a": "1"}, {}])
    [{}, {}, {}]
    """
    names = list(dict.fromkeys(name for one in settings for name in one))
    own = (
        "data.clips",
        "data.prompts",
        "data.seed",
        "trainer.logger",
        "trainer.default_root_dir",
        "trainer.max_epochs",
    )
    known = [one for one in settings if one]
    changed = [name for name in names if not name.startswith(own) and len({one.get(name) for one in known}) > 1]
    return [{name: one.get(name, "") for name in changed} for one in settings]


def _curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the losses and gradients that Lightning's CSVLogger wrote, by name, means of the run's jobs.

    There is a file for each time that the run was started; what was done again after a stop counts as it was last.
    """
    found: dict[str, dict[int, float]] = {}
    for path in sorted(folder.glob("**/metrics.csv"), key=lambda path: path.stat().st_mtime):
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                for name, value in row.items():
                    shown = value and name.startswith(("loss", "gradients/cosine", "gradients/drift"))
                    if shown and math.isfinite(float(value)):
                        found.setdefault(name, {})[int(row["step"])] = float(value)
    return {name: sorted(values.items()) for name, values in found.items()}
