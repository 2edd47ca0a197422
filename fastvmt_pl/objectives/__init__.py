"""Objectives: what "the same motion" means, as differentiable functions and as losses."""

from fastvmt_pl.objectives.attention_flow import global_motion_flow, window_centres, windowed_motion_flow
from fastvmt_pl.objectives.frame_pairs import FramePairs, frame_pairs
from fastvmt_pl.objectives.loss_functions import corresponding_window_loss, motion_flow_loss
from fastvmt_pl.objectives.motion_target import MotionSettings, MotionTarget
from fastvmt_pl.objectives.objective import MotionFlowLoss, MotionLoss, WindowLoss

__all__ = [
    "FramePairs",
    "MotionFlowLoss",
    "MotionLoss",
    "MotionSettings",
    "MotionTarget",
    "WindowLoss",
    "corresponding_window_loss",
    "frame_pairs",
    "global_motion_flow",
    "motion_flow_loss",
    "window_centres",
    "windowed_motion_flow",
]
