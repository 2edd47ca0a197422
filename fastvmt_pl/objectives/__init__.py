"""Objectives: what "the same motion" means, one file each, as features that are read and losses on them."""

from fastvmt_pl.objectives.attention_flow import AttentionFlow, MotionFlowLoss
from fastvmt_pl.objectives.feature import MotionFeature
from fastvmt_pl.objectives.motion_loss import MotionLoss, Places
from fastvmt_pl.objectives.motion_target import MotionTarget
from fastvmt_pl.objectives.window import WindowLoss

__all__ = ["AttentionFlow", "MotionFeature", "MotionFlowLoss", "MotionLoss", "MotionTarget", "Places", "WindowLoss"]
