"""The maths of motion transfer: pure, differentiable functions on queries and keys."""

from fastvmt_pl.motion.flow import global_motion_flow, window_centres, windowed_motion_flow
from fastvmt_pl.motion.losses import corresponding_window_loss, motion_flow_loss
from fastvmt_pl.motion.pairs import FramePairs, frame_pairs
from fastvmt_pl.motion.target import MotionSettings, MotionTarget

__all__ = [
    "FramePairs",
    "MotionSettings",
    "MotionTarget",
    "corresponding_window_loss",
    "frame_pairs",
    "global_motion_flow",
    "motion_flow_loss",
    "window_centres",
    "windowed_motion_flow",
]
