"""Video motion transfer with video diffusion transformers (FastVMT) in PyTorch Lightning."""

from fastvmt_pl.backbones import Backbone, WanBackbone
from fastvmt_pl.jobs import TransferJobs, TransferResult
from fastvmt_pl.metrics import MotionFlowLoss, MotionLoss, WindowLoss
from fastvmt_pl.motion import MotionSettings, MotionTarget
from fastvmt_pl.motion_transfer import MotionTransfer

__all__ = [
    "Backbone",
    "MotionFlowLoss",
    "MotionLoss",
    "MotionSettings",
    "MotionTarget",
    "MotionTransfer",
    "TransferJobs",
    "TransferResult",
    "WanBackbone",
    "WindowLoss",
]
