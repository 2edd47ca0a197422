"""Previews of a transfer: the predicted clean video during guidance, and its motion."""

import torch
from einops import rearrange
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger

from fastvmt_pl.callbacks.pictures import log_picture
from fastvmt_pl.callbacks.trainer_parts import datamodule_of
from fastvmt_pl.clips import Clip
from fastvmt_pl.clips.video_writing import enlarge, side_by_side, to_frames
from fastvmt_pl.errors import UserError
from fastvmt_pl.method.measuring import motion_of, motion_picture
from fastvmt_pl.method.motion_transfer import MotionTransfer
from fastvmt_pl.regions.region_picture import dimmed

NUM_FRAMES = 5
"""Frames of a video in a preview."""


class TransferPreviews(Callback):
    """Logs pictures of the predicted clean video of each job, and of its motion, after some of the guided steps.

    Add it in the config; no command adds it, since each preview of a job costs a decoding and a transformer pass. The
    prediction is that of the last denoising step. ``prediction/0`` shows frames of the first job's clip and video,
    and ``motion/0`` the video's flow. They go to TensorBoard and Weights & Biases; without these loggers, the callback
    does nothing.

    Args:
        every_n_steps: Guided steps between previews; the last guided step always has one.

    Raises:
        UserError: If ``every_n_steps`` is below 1.

    Example:
        .. code-block:: yaml

            trainer:
              logger: {class_path: TensorBoardLogger, init_args: {save_dir: runs}}
              callbacks:
                - class_path: fastvmt_pl.callbacks.TransferPreviews
                  init_args:
                    every_n_steps: 5
    """

    def __init__(self, every_n_steps: int = 5) -> None:
        if every_n_steps < 1:
            raise UserError(f"every_n_steps is {every_n_steps}; use at least 1 guided step")
        self.every_n_steps = every_n_steps

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the prediction of the guided step before."""
        assert isinstance(pl_module, MotionTransfer)
        if pl_module.step % self.every_n_steps == 0:
            self._show(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the prediction of the last guided step."""
        assert isinstance(pl_module, MotionTransfer)
        self._show(trainer, pl_module)

    @torch.no_grad()
    def _show(self, trainer: Trainer, module: MotionTransfer) -> None:
        watched = any(isinstance(logger, TensorBoardLogger | WandbLogger) for logger in trainer.loggers)
        if module.predicted is None or not watched:
            return
        data = datamodule_of(trainer)
        for number, latents in enumerate(module.predicted.split(1)):
            frames = to_frames(module.backbone.decode(latents))[0]
            clip = data.clips[number]
            carried = data.regions.of_job(number)
            if carried is not None:
                clip = Clip(dimmed(carried[0], clip.frames), clip.fps, clip.name)
            reference = to_frames(clip.to_video(data.size))[0]
            shown = torch.linspace(0, len(frames) - 1, NUM_FRAMES).round().long()
            rows = enlarge(side_by_side([reference[shown], frames[shown]]))
            log_picture(trainer, f"prediction/{number}", rearrange(rows, "f h w c -> (f h) w c"))
            motion = motion_of(module.backbone, latents, data.motion)
            log_picture(trainer, f"motion/{number}", motion_picture(motion, 0, frames))
