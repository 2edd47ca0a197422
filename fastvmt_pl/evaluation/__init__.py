"""Evaluation: how well a finished video follows a reference."""

from fastvmt_pl.evaluation.dense_flow import dense_flow
from fastvmt_pl.evaluation.opencv_trackers import DenseFlow, LucasKanade
from fastvmt_pl.evaluation.tracks import Tracker, Tracks
from fastvmt_pl.evaluation.video_metrics import (
    AppearanceLeak,
    FlowEndpointError,
    MotionFidelity,
    PublishedMotionFidelity,
    TemporalConsistency,
)

__all__ = [
    "AppearanceLeak",
    "DenseFlow",
    "FlowEndpointError",
    "LucasKanade",
    "MotionFidelity",
    "PublishedMotionFidelity",
    "TemporalConsistency",
    "Tracker",
    "Tracks",
    "dense_flow",
]
