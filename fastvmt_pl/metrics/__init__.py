"""Losses and scores of motion transfer as torchmetrics metrics."""

from fastvmt_pl.metrics.motion import MotionFlowLoss, MotionLoss, WindowLoss

__all__ = ["MotionFlowLoss", "MotionLoss", "WindowLoss"]
