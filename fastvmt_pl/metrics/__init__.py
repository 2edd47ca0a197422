"""Losses and scores of motion transfer as torchmetrics metrics."""

from fastvmt_pl.metrics.motion import MotionFlowLoss, MotionLoss, WindowLoss
from fastvmt_pl.metrics.video import (
    AppearanceLeak,
    FlowEndpointError,
    MotionFidelity,
    PublishedMotionFidelity,
    TemporalConsistency,
)

__all__ = [
    "AppearanceLeak",
    "FlowEndpointError",
    "MotionFidelity",
    "MotionFlowLoss",
    "MotionLoss",
    "PublishedMotionFidelity",
    "TemporalConsistency",
    "WindowLoss",
]
