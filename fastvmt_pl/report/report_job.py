"""The data of a video on the page."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Job:
    """A video of a report.

    Attributes:
        name: Its folder, relative to the folder that holds all runs of the report.
        prompt: Its prompt.
        clip: File name of its reference.
        settings: Settings in which the runs of the report differ, by their dotted names.
        scores: Its scores and costs.
        videos: Each video as a data URL.
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
    overlays: dict[str, dict[str, Any]]
    curves: dict[str, list[tuple[int, float]]]
    fps: float
