"""Video motion transfer with video diffusion transformers (FastVMT) in PyTorch Lightning."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastvmt_pl.backbones import Backbone, DiffusersBackbone, load_backbone
    from fastvmt_pl.clips import Clip, read_clip
    from fastvmt_pl.method.motion_transfer import MotionTransfer
    from fastvmt_pl.method.transfer_jobs import TransferJobs, TransferResult
    from fastvmt_pl.objectives import AttentionFlow, MotionFlowLoss, MotionLoss, MotionTarget, WindowLoss
    from fastvmt_pl.runs.transfer_run import Transfer, transfer

MODULES = {
    "AttentionFlow": "objectives",
    "Backbone": "backbones",
    "Clip": "clips",
    "DiffusersBackbone": "backbones",
    "MotionFlowLoss": "objectives",
    "MotionLoss": "objectives",
    "MotionTarget": "objectives",
    "MotionTransfer": "method.motion_transfer",
    "Transfer": "runs.transfer_run",
    "TransferJobs": "method.transfer_jobs",
    "TransferResult": "method.transfer_jobs",
    "WindowLoss": "objectives",
    "load_backbone": "backbones",
    "read_clip": "clips",
    "transfer": "runs.transfer_run",
}
"""Where each public name is; a module is imported when its first name is asked for, since that takes seconds."""

__all__ = [
    "AttentionFlow",
    "Backbone",
    "Clip",
    "DiffusersBackbone",
    "MotionFlowLoss",
    "MotionLoss",
    "MotionTarget",
    "MotionTransfer",
    "Transfer",
    "TransferJobs",
    "TransferResult",
    "WindowLoss",
    "load_backbone",
    "read_clip",
    "transfer",
]


def __getattr__(name: str) -> Any:
    if name not in MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{MODULES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
