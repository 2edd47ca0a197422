"""Log pictures and videos with loggers that support them."""

from pathlib import Path

from jaxtyping import UInt8
from lightning import Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from torch import Tensor


def log_picture(trainer: Trainer, name: str, picture: UInt8[Tensor, "height width 3"]) -> None:
    """Log a picture with TensorBoard and Weights & Biases, if the trainer uses them."""
    for logger in trainer.loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.experiment.add_image(name, picture, trainer.global_step, dataformats="HWC")
        elif isinstance(logger, WandbLogger):
            logger.log_image(name, [picture.numpy()], step=trainer.global_step)


def log_video(trainer: Trainer, name: str, path: Path) -> None:
    """Log a video file with Weights & Biases, if the trainer uses it."""
    for logger in trainer.loggers:
        if isinstance(logger, WandbLogger):
            logger.log_video(name, [str(path)], step=trainer.global_step)
