"""Keep the newest checkpoint."""

from pathlib import Path

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint


def write_last(trainer: Trainer, callback: ModelCheckpoint) -> None:
    """Write ``last.ckpt`` in the folder of a checkpoint callback, and record it there."""
    assert callback.dirpath is not None  # known since the callback's setup
    # Part of the saved state, so that the resumed run writes to the same file.
    callback.last_model_path = str(Path(callback.dirpath) / f"{callback.CHECKPOINT_NAME_LAST}.ckpt")
    trainer.save_checkpoint(callback.last_model_path, weights_only=False)


class LastCheckpoint(ModelCheckpoint):
    """Writes ``last.ckpt`` after each epoch, that is, each guided step of a transfer.

    Lightning's own ``save_last`` writes only when another checkpoint is kept too.

    Args:
        dirpath: The folder; ``None`` is that of the trainer's logs.

    Example:
        .. code-block:: yaml

            trainer:
              callbacks:
                - class_path: fastvmt_pl.callbacks.LastCheckpoint
    """

    def __init__(self, dirpath: Path | None = None) -> None:
        super().__init__(dirpath, save_top_k=0, save_last=True, save_on_train_epoch_end=True)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the checkpoint."""
        write_last(trainer, self)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write nothing, since the last epoch has written it."""
