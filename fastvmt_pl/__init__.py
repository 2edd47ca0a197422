"""Video motion transfer with video diffusion transformers (FastVMT) in PyTorch Lightning."""

from fastvmt_pl.backbones import Backbone, WanBackbone
from fastvmt_pl.method.motion_transfer import MotionTransfer
from fastvmt_pl.method.transfer_jobs import TransferJobs, TransferResult
from fastvmt_pl.objectives import AttentionFlow, MotionFlowLoss, MotionLoss, MotionTarget, WindowLoss

__all__ = [
    "AttentionFlow",
    "Backbone",
    "MotionFlowLoss",
    "MotionLoss",
    "MotionTarget",
    "MotionTransfer",
    "TransferJobs",
    "TransferResult",
    "WanBackbone",
    "WindowLoss",
]
