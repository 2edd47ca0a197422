"""The costs of a transfer: time, and the memory of a gradient."""

import time
from typing import Any

from lightning import Callback, LightningModule, Trainer

from fastvmt_pl.method.motion_transfer import MotionTransfer
from fastvmt_pl.processes.peak_memory import PeakMemory


class Costs(Callback):
    """Measures the seconds from the first guided step to the decoded videos, and the peak memory of one fresh gradient.

    The time does not include the extraction of the reference's motion, since a cache can save it.

    Args:
        profile_cpu: Also measure memory on a CPU, with PyTorch's profiler, which slows down one inner step and prints.

    Attributes:
        peak_bytes: Growth of memory in bytes in the first inner step, forward and backward; ``None`` if it was not
            measured.
    """

    def __init__(self, profile_cpu: bool = False) -> None:
        self.profile_cpu = profile_cpu
        self._restart()

    def _restart(self) -> None:
        self.earlier = 0.0
        self.begun: float | None = None
        self.ended: float | None = None
        self.peak_bytes: int | None = None
        self.peak: PeakMemory | None = None

    @property
    def seconds(self) -> float:
        """Seconds of all jobs together so far, including those of the runs that this run resumes."""
        if self.begun is None:
            return self.earlier
        return self.earlier + (time.perf_counter() if self.ended is None else self.ended) - self.begun

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Reset the state; a checkpoint is loaded after this."""
        self._restart()

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Load all weights, and start the clock."""
        assert isinstance(pl_module, MotionTransfer)
        pl_module.backbone.load_weights()
        self.begun = time.perf_counter()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Measure the first inner step that computes all gradients."""
        assert isinstance(pl_module, MotionTransfer)
        measurable = pl_module.device.type == "cuda" or self.profile_cpu
        if measurable and self.peak_bytes is None and not pl_module.cached_gradients:
            self.peak = PeakMemory(pl_module.device)
            self.peak.__enter__()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """End the measurement of memory."""
        if self.peak is not None:
            self.peak.__exit__()
            self.peak_bytes, self.peak = self.peak.num_bytes, None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """End the measurement of memory."""
        if self.peak is not None:
            self.peak.__exit__()
            self.peak = None

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stop the clock."""
        self.ended = time.perf_counter()

    def state_dict(self) -> dict[str, Any]:
        """Return the measurements so far."""
        return {"seconds": self.seconds, "peak_bytes": self.peak_bytes}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        self.earlier, self.peak_bytes = state_dict["seconds"], state_dict["peak_bytes"]
