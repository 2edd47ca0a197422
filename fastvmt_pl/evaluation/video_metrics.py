"""Scores of finished videos as torchmetrics metrics, over the functions of the same names.

Videos have values from 0 to 255 and are on the CPU, where the trackers run. A reference and a video that are compared
have the same size and number of frames.
"""

from itertools import count
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric

from fastvmt_pl.evaluation.appearance import appearance_leak
from fastvmt_pl.evaluation.functional import (
    check_pair,
    flow_endpoint_error,
    motion_fidelity,
    published_motion_fidelity,
    temporal_consistency,
)
from fastvmt_pl.evaluation.opencv_trackers import LucasKanade
from fastvmt_pl.evaluation.tracks import Frames, Tracker

_NUMBERS = count()


class VideoMetric(Metric):
    """The mean of a score over videos; videos whose score is not a number do not count.

    The state of each metric holds a unique number. Otherwise a ``MetricCollection`` would merge two metrics that give
    the first video the same score.
    """

    is_differentiable = False
    full_state_update = False
    total: Tensor
    count: Tensor
    number: Tensor

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")
        self.add_state("number", torch.tensor(next(_NUMBERS)), dist_reduce_fx="max")

    def add(self, score: float) -> None:
        """Add a video's score."""
        value = torch.tensor(score)
        self.total = self.total + value.nan_to_num(0.0)
        self.count = self.count + (~value.isnan()).long()

    def compute(self) -> Float[Tensor, ""]:
        """Return the mean; not a number if no video counts."""
        return self.total / self.count


class MotionFidelity(VideoMetric):
    """Two-way agreement of point tracks, see :func:`~fastvmt_pl.evaluation.functional.motion_fidelity`.

    Args:
        tracker: The tracker; default: :class:`~fastvmt_pl.evaluation.LucasKanade`.
        reach: Largest distance in pixels between tracks that match.
        options: Options of :class:`torchmetrics.Metric`.
    """

    higher_is_better = True

    def __init__(self, tracker: Tracker | None = None, reach: float = float("inf"), **options: Any) -> None:
        super().__init__(**options)
        self.tracker, self.reach = tracker or LucasKanade(), reach

    def update(self, reference: Frames, output: Frames) -> None:
        """Add a video."""
        check_pair(reference, output)
        self.add(motion_fidelity(self.tracker.track(reference), self.tracker.track(output), self.reach))


class PublishedMotionFidelity(VideoMetric):
    """The motion fidelity of SMM and DiTFlow, see :func:`~fastvmt_pl.evaluation.functional.published_motion_fidelity`.

    Args:
        tracker: The tracker; CoTracker to compare with their tables.
        options: Options of :class:`torchmetrics.Metric`.
    """

    higher_is_better = True

    def __init__(self, tracker: Tracker, **options: Any) -> None:
        super().__init__(**options)
        self.tracker = tracker

    def update(self, reference: Frames, output: Frames) -> None:
        """Add a video."""
        check_pair(reference, output)
        tracks, made = self.tracker.track(reference), self.tracker.track(output)
        self.add(published_motion_fidelity(tracks.points, made.points))


class FlowEndpointError(VideoMetric):
    """End-point error of dense flow, see :func:`~fastvmt_pl.evaluation.functional.flow_endpoint_error`.

    Args:
        relative: Give the error as a share of the reference's flow, not in pixels.
        options: Options of :class:`torchmetrics.Metric`.
    """

    higher_is_better = False

    def __init__(self, relative: bool = True, **options: Any) -> None:
        super().__init__(**options)
        self.relative = relative

    def update(self, reference: Frames, output: Frames) -> None:
        """Add a video."""
        self.add(flow_endpoint_error(reference, output)[self.relative])


class TemporalConsistency(VideoMetric):
    """Similarity of consecutive frames, see :func:`~fastvmt_pl.evaluation.functional.temporal_consistency`."""

    higher_is_better = True

    def update(self, output: Frames) -> None:
        """Add a video."""
        self.add(temporal_consistency(output))


class AppearanceLeak(VideoMetric):
    """How many of the reference's colours appear, see :func:`~fastvmt_pl.evaluation.appearance.appearance_leak`."""

    higher_is_better = False

    def update(self, reference: Frames, output: Frames, baseline: Frames | None = None) -> None:
        """Add a video; the baseline is a video of the same prompt without the reference."""
        self.add(appearance_leak(reference, output, baseline))
