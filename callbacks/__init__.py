"""Callbacks: of motion transfer (gradient caching, progress, run folder, costs), of distillation, and of both."""

from .costs import Costs
from .gradient_cache import GradientCache
from .last_checkpoint import LastCheckpoint
from .lora_export import LoraExport
from .lora_previews import LoraPreviews
from .preemption import Preemption
from .progress import TransferProgress
from .run_folder import RunFolder
from .stop_at_leak import StopAtLeak
from .transfer_previews import TransferPreviews

__all__ = [
    "Costs",
    "GradientCache",
    "LastCheckpoint",
    "LoraExport",
    "LoraPreviews",
    "Preemption",
    "RunFolder",
    "StopAtLeak",
    "TransferPreviews",
    "TransferProgress",
]
