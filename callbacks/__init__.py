"""Lightning callbacks for motion transfer, for distillation, and for both."""

from fastvmt_pl.callbacks.costs import Costs
from fastvmt_pl.callbacks.gradient_cache import GradientCache
from fastvmt_pl.callbacks.job_scores import JobScores
from fastvmt_pl.callbacks.last_checkpoint import LastCheckpoint
from fastvmt_pl.callbacks.lora_export import LoraExport
from fastvmt_pl.callbacks.lora_previews import LoraPreviews
from fastvmt_pl.callbacks.progress import TransferProgress
from fastvmt_pl.callbacks.run_folder import RunFolder
from fastvmt_pl.callbacks.stop_at_leak import StopAtLeak
from fastvmt_pl.callbacks.stop_when_preempted import Preemption
from fastvmt_pl.callbacks.transfer_previews import TransferPreviews

__all__ = [
    "Costs",
    "GradientCache",
    "JobScores",
    "LastCheckpoint",
    "LoraExport",
    "LoraPreviews",
    "Preemption",
    "RunFolder",
    "StopAtLeak",
    "TransferPreviews",
    "TransferProgress",
]
