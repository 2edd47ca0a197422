"""Leave with a checkpoint when a scheduler asks to."""

from contextlib import ExitStack
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from fastvmt_pl.callbacks.last_checkpoint import write_last
from fastvmt_pl.method.motion_transfer import MotionTransfer
from fastvmt_pl.processes.stop_request import SIGNALS, StopRequest, listening


class Preemption(Callback):
    """On SIGTERM or SIGUSR1, finishes the step, writes the last checkpoint and raises ``Preempted``.

    The commands then end with exit code 75, on which a scheduler can start them again. Of several processes, all leave
    after the same step once one of them was asked to. The checkpoint is the one that a
    :class:`~lightning.pytorch.callbacks.ModelCheckpoint` with ``save_last`` writes; without one, nothing is kept.

    Args:
        request: Notes the signals; ``None`` is one of its own, from the first step to the last.

    Raises:
        Preempted: After the step.

    Example:
        .. code-block:: yaml

            trainer:
              callbacks:
                - class_path: fastvmt_pl.callbacks.Preemption
    """

    def __init__(self, request: StopRequest | None = None) -> None:
        self.given = request
        self.rest = ExitStack()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget what an earlier fit was asked."""
        self.request = self.given or StopRequest()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen in Lightning's place, whose own handler starts a collective in the middle of a step."""
        self.request.listen()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Leave, if any process was asked to."""
        if not trainer.strategy.reduce_boolean_decision(self.request.received is not None, all=False):
            return
        checkpoint = trainer.checkpoint_callback
        if isinstance(checkpoint, ModelCheckpoint) and checkpoint.dirpath:
            write_last(trainer, checkpoint)
        self.request.received = self.request.received or SIGNALS[0]
        self.request.check()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Listen on: Lightning gives the signals back before a transfer takes its unguided steps."""
        self.rest.enter_context(listening(self.request))
        if isinstance(pl_module, MotionTransfer):
            pl_module.on_denoised.append(lambda: self._leave_unguided(pl_module))

    def _leave_unguided(self, module: MotionTransfer) -> None:
        if self.request.received is not None:
            module.save_last_checkpoint()
            self.request.check()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the signals back."""
        self.rest.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the signals back."""
        self.rest.close()
