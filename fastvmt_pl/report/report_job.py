"""What a report shows of a video."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Job:
    """A video of a report.

    Attributes:
        name: Its folder, below the one that holds all runs of the report.
        prompt: What it is to show.
        clip: File name of its reference.
        settings: Settings in which the runs of the report differ, by their dotted names.
        scores: Its scores, and what it cost.
        videos: Each video as a data URL.
        overlays: What moves in each, see :func:`~fastvmt_pl.report.motion_overlay.motion_overlay`.
        curves: Logged values by name, means of the run's jobs: pairs of inner step and value, finite, by step.
        fps: Frames a second.
    """

    name: str
    prompt: str
    clip: str
    settings: dict[str, str]
    scores: dict[str, float | None]
    videos: dict[str, str]
    overlays: dict[str, dict[str, Any]]
    curves: dict[str, list[tuple[int, float]]]
    fps: float
