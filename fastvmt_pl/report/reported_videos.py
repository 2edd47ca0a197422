"""Read finished runs for a report."""

import base64
import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from fastvmt_pl.clips import read_pair
from fastvmt_pl.errors import UserError
from fastvmt_pl.evaluation import LucasKanade
from fastvmt_pl.evaluation.finished_runs import Run
from fastvmt_pl.evaluation.scores import score_video
from fastvmt_pl.report.logged_curves import read_curves
from fastvmt_pl.report.motion_overlay import motion_overlay
from fastvmt_pl.report.run_settings import differing, read_settings

Track = Callable[[Sequence[Any]], Iterable[Any]]
"""Yields items one after the other."""
VIDEOS = ("reference", "baseline", "output")
PICTURES = ("image", "region")
"""Pictures that a job may have: the image that its video begins with, and its region in frames of the clip."""
GIVEN = ("image", "region", "region_of", "place", "speed")
"""What a job may have been given, in ``metrics.json``."""
MEASURES = (
    "gradients_computed",
    "gradients_reused",
    "seconds",
    "gradient_peak_mib",
    "attention_flow_error",
    "baseline_attention_flow_error",
)
"""Measures in ``metrics.json``, in the order of the table."""


@dataclass(frozen=True)
class ReportedVideo:
    """A video of a report.

    Attributes:
        name: Its folder, relative to the folder that holds all runs of the report.
        prompt: Its prompt.
        clip: File name of its reference.
        settings: Settings in which the runs of the report differ, by their dotted names.
        scores: Its scores and costs.
        videos: Each video as a data URL.
        pictures: Each of :data:`PICTURES` that it has, as a data URL.
        given: What it was given of :data:`GIVEN`.
        overlays: The motion in each video, see :func:`~fastvmt_pl.report.motion_overlay.motion_overlay`.
        curves: Logged values by name, averaged over the run's jobs: inner step and value, ordered by step.
        fps: Frames per second.
    """

    name: str
    prompt: str
    clip: str
    settings: dict[str, str]
    scores: dict[str, float | None]
    videos: dict[str, str]
    pictures: dict[str, str]
    given: dict[str, str]
    overlays: dict[str, dict[str, Any]]
    curves: dict[str, list[tuple[int, float]]]
    fps: float


def collect(runs: Sequence[Run], track: Track = iter) -> tuple[list[ReportedVideo], list[str]]:
    """Read and score the videos of some runs; return them, and why others could not be read.

    Args:
        runs: Finished runs.
        track: Iterates over the jobs, and may show the progress.
    """
    jobs, problems, settings = list[ReportedVideo](), list[str](), list[dict[str, str]]()
    for run in runs:
        try:
            settings.append(read_settings(run.folder))
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


def _job(run: Run, number: int, folder: Path, settings: dict[str, str], place: str) -> ReportedVideo:
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
    return ReportedVideo(
        name=place,
        prompt=own["prompt"],
        clip=Path(str(own.get("clip", ""))).name,
        settings={**settings, "seed": str(own["seed"])},
        scores={name: x for name, x in {**scores, **measured}.items() if x is not None and math.isfinite(x)},
        videos={name: _data_url(file) for name, file in files.items()},
        pictures={name: _data_url(file, "image/png") for name in PICTURES if (file := folder / f"{name}.png").exists()},
        given={name: _text(own[name]) for name in GIVEN if own.get(name) not in (None, 1)},  # at a speed of 1, no word
        overlays={name: motion_overlay(pair.output) for name, pair in pairs.items()},
        curves=read_curves(run.logs),
        fps=pair.fps,
    )


def _data_url(path: Path, kind: str = "video/mp4") -> str:
    return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _text(value: Any) -> str:
    """Return a setting as a page shows it, which tells no path of the machine."""
    if isinstance(value, dict):
        return f"scale {value['scale']:.2f}, offset {', '.join(f'{x:.2f}' for x in value['offset'])} of the frame"
    return Path(value).name if isinstance(value, str) else str(value)
