"""Stop with a checkpoint when a scheduler asks for it."""

from contextlib import ExitStack
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from fastvmt_pl.callbacks.last_checkpoint import write_last
from fastvmt_pl.method.motion_transfer import MotionTransfer
from fastvmt_pl.processes.stop_request import SIGNALS, StopRequest, listening


class Preemption(Callback):
    """On SIGTERM or SIGUSR1, finishes the step, writes the last checkpoint and raises ``Preempted``.

    The commands then end with exit code 75, so that a scheduler can start them again. If one of several processes gets
    a signal, all stop after the same step. The checkpoint is the last one of a
    :class:`~lightning.pytorch.callbacks.ModelCheckpoint` with ``save_last``; without one, nothing is saved.

    Args:
        request: Records the signals; ``None`` creates one that listens from the first step to the last.

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
        """Reset the request."""
        self.request = self.given or StopRequest()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Replace Lightning's handler, which starts a collective operation in the middle of a step."""
        self.request.listen()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop if any process was asked to."""
        if not trainer.strategy.reduce_boolean_decision(self.request.received is not None, all=False):
            return
        checkpoint = trainer.checkpoint_callback
        if isinstance(checkpoint, ModelCheckpoint) and checkpoint.dirpath:
            write_last(trainer, checkpoint)
        self.request.received = self.request.received or SIGNALS[0]
        self.request.check()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep listening: Lightning restores the handlers before the unguided steps."""
        self.rest.enter_context(listening(self.request))
        if isinstance(pl_module, MotionTransfer):
            pl_module.on_denoised.append(lambda: self._leave_unguided(pl_module))

    def _leave_unguided(self, module: MotionTransfer) -> None:
        if self.request.received is not None:
            module.save_last_checkpoint()
            self.request.check()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Restore the handlers of signals."""
        self.rest.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Restore the handlers of signals."""
        self.rest.close()
