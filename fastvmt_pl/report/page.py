"""The page of a report, in one file that needs no network."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from importlib.resources import files

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from fastvmt_pl.evaluation.scores import BETTER
from fastvmt_pl.report.curve import curve
from fastvmt_pl.report.reported_videos import ReportedVideo

ARROWS = {"higher": ("↑", "higher is better"), "lower": ("↓", "lower is better")}


@dataclass(frozen=True)
class Column:
    """A column of the table."""

    name: str
    differs: bool = False
    arrow: str = ""
    meaning: str = ""


@dataclass(frozen=True)
class Cell:
    """A cell of the table; numbers are sorted by value."""

    text: str
    number: float | None = None
    differs: bool = False


def render(jobs: Sequence[ReportedVideo], title: str) -> str:
    """Return the HTML of a report."""
    here = files("fastvmt_pl.report")
    page, style, script = ((here / f"page.{kind}").read_text(encoding="utf-8") for kind in ("html", "css", "js"))
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(page)
    settings = list(dict.fromkeys(name for job in jobs for name in job.settings))
    scores = list(dict.fromkeys(name for job in jobs for name in job.scores))
    columns = [Column("prompt"), Column("clip"), Column("run"), *(Column(name, name != "seed") for name in settings)]
    columns += [Column(name, False, *ARROWS.get(BETTER.get(name, ""), ("", ""))) for name in scores]
    data = [{"fps": job.fps, "numFrames": _num_frames(job), "overlays": job.overlays} for job in jobs]
    return template.render(
        title=title,
        date=date.today().isoformat(),
        version=version("fastvmt-pl"),
        columns=columns,
        rows=[{"number": number, "cells": _cells(job, settings, scores)} for number, job in enumerate(jobs)],
        settings=[name for name in settings if name != "seed"],
        jobs=[
            {
                "name": job.name,
                "prompt": job.prompt,
                "videos": job.videos,
                "pictures": job.pictures,
                "given": job.given,
                "num_frames": _num_frames(job),
                "curves": [Markup(curve(name, points)) for name, points in job.curves.items()],
            }
            for job in jobs
        ],
        style=Markup(style),
        script=Markup(script),
        data=Markup(json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")),
    )


def _num_frames(job: ReportedVideo) -> int:
    return len(job.overlays["reference"]["flow"]) + 1


def _cells(job: ReportedVideo, settings: Sequence[str], scores: Sequence[str]) -> list[Cell]:
    cells = [Cell(job.prompt), Cell(job.clip), Cell(job.name)]
    for name in settings:
        value = job.settings.get(name, "")
        cells.append(Cell(value, _number(value), name != "seed"))
    for name in scores:
        score = job.scores.get(name)
        cells.append(Cell("" if score is None else f"{score:.4g}", score))
    return cells


def _number(text: str) -> float | None:
    try:
        return float(text) if math.isfinite(float(text)) else None
    except ValueError:
        return None
