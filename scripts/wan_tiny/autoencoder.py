"""Train the autoencoder of wan-tiny on toy clips: small crops first, whole clips last.

Usage: ``python scripts/wan_tiny/autoencoder.py --output checkpoints/wan-tiny``; the same command resumes a run that
was stopped. Writes ``OUTPUT/vae``, a folder for ``AutoencoderKLWan.from_pretrained``.
"""

from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from einops import rearrange
from jsonargparse import auto_cli
from lightning import LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from fastvmt_pl.toy.toy_world import ToyWorld

TRAINING_SEED, VALIDATION_SEED = 0, 1
LATENT_CHANNELS = 8
CROP_FRAMES, CROP_SIZE = 9, 24


def small_autoencoder() -> AutoencoderKLWan:
    """Return an untrained autoencoder: 2 x 4 x 4 pixels to a latent, in the residual form that Wan 2.2 introduced."""
    return AutoencoderKLWan(
        base_dim=32,
        z_dim=LATENT_CHANNELS,
        dim_mult=[2, 2],
        num_res_blocks=1,
        attn_scales=[],
        temperal_downsample=[True],
        patch_size=2,
        in_channels=12,
        out_channels=12,
        is_residual=True,
        latents_mean=[0.0] * LATENT_CHANNELS,
        latents_std=[1.0] * LATENT_CHANNELS,
        scale_factor_temporal=2,
        scale_factor_spatial=4,
    )


def to_video(frames: Tensor) -> Tensor:
    """Turn stored pictures (0 to 255) into the autoencoder's input (-1 to 1), channels before frames."""
    return rearrange(frames, "clips frames height width rgb -> clips rgb frames height width").float() / 127.5 - 1


def psnr(prediction: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of pictures in -1 to 1, averaged over clips."""
    return (10 * torch.log10(4 / (prediction - target).pow(2).flatten(1).mean(1))).mean()


class AutoencoderTraining(LightningModule):
    """Reconstruction by absolute and squared error with a light KL term, on crops, then on whole clips."""

    def __init__(
        self, model: AutoencoderKLWan, num_steps: int, whole_share: float, learning_rate: float, kl_weight: float
    ) -> None:
        super().__init__()
        self.num_steps, self.whole_share = num_steps, whole_share
        self.learning_rate, self.kl_weight = learning_rate, kl_weight
        self.model = model
        for module in self.model.modules():
            if isinstance(module, torch.nn.Conv3d):  # the layout that convolutions on a CPU need no copy for
                module.weight.data = module.weight.data.contiguous(memory_format=torch.channels_last_3d)

    def training_step(self, batch: list[Tensor], batch_index: int) -> Tensor:
        video = to_video(batch[0])
        if self.global_step < (1 - self.whole_share) * self.num_steps:
            t, y, x = (
                int(torch.randint(0, n, ())) for n in (17 - CROP_FRAMES + 1, 48 - CROP_SIZE + 1, 48 - CROP_SIZE + 1)
            )
            video = video[:, :, t : t + CROP_FRAMES, y : y + CROP_SIZE, x : x + CROP_SIZE]
        else:
            video = video[: len(video) // 4]
        video = video.contiguous(memory_format=torch.channels_last_3d)
        posterior = self.model.encode(video).latent_dist
        latents = posterior.sample()
        # Half of the batch is decoded mirrored, so that mirrored latents are as good as those of a mirrored clip.
        half = len(video) // 2
        latents = torch.cat([latents[:half].flip(-1), latents[half:]])
        target = torch.cat([video[:half].flip(-1), video[half:]])
        error = self.model.decode(latents).sample.float() - target
        reconstruction = error.abs().mean() + 2 * error.pow(2).mean()
        kl = 0.5 * (posterior.mean.float().pow(2) + posterior.var.float() - 1 - posterior.logvar.float()).mean()
        self.log_dict({"reconstruction": reconstruction, "kl": kl, "train_mse": error.pow(2).mean()})
        return reconstruction + self.kl_weight * kl

    def validation_step(self, batch: list[Tensor], batch_index: int) -> None:
        video = to_video(batch[0])
        decoded = self.model.decode(self.model.encode(video).latent_dist.mode()).sample
        self.log("psnr", psnr(decoded.float(), video), prog_bar=True)

    def configure_optimizers(self) -> dict:
        optimizer = torch.optim.AdamW(self.parameters(), self.learning_rate, betas=(0.9, 0.99), weight_decay=1e-4)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, self.learning_rate, total_steps=self.num_steps + 1, pct_start=0.05, final_div_factor=100
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


@torch.no_grad()
def measure_latents(model: AutoencoderKLWan, clips: Tensor) -> None:
    """Store the mean and standard deviation of each latent channel in the model's config."""
    latents = torch.cat([model.encode(to_video(part)).latent_dist.mode() for part in clips.split(16)])
    channels = rearrange(latents, "clips channels frames height width -> channels (clips frames height width)")
    model.register_to_config(latents_mean=channels.mean(1).tolist(), latents_std=channels.std(1).tolist())


def main(
    output: Path,
    num_steps: int = 5000,
    num_clips: int = 3000,
    batch_size: int = 8,
    whole_share: float = 0.2,
    learning_rate: float = 1.5e-3,
    kl_weight: float = 3e-4,
    warm_start: Path | None = None,
) -> None:
    """Train, or go on training, and write ``OUTPUT/vae``.

    Args:
        output: Folder of checkpoints, logs and the result.
        num_steps: Optimiser steps.
        num_clips: Toy clips to train on.
        batch_size: Crops a step; a fourth of it, but of whole clips, in the last steps.
        whole_share: Share of the steps that see whole clips, which teaches the borders.
        learning_rate: Peak rate of a one-cycle schedule.
        kl_weight: Weight of the KL term against the mean absolute error.
        warm_start: A ``WanPipeline`` folder whose autoencoder training starts from.
    """
    seed_everything(TRAINING_SEED)
    clips = {
        seed: torch.stack([ToyWorld(seed)[i].frames for i in range(count)])
        for seed, count in ((TRAINING_SEED, num_clips), (VALIDATION_SEED, 32))
    }
    if warm_start is None:
        autoencoder = small_autoencoder()
    else:
        autoencoder = AutoencoderKLWan.from_pretrained(warm_start / "vae")
        autoencoder.register_to_config(_name_or_path="")  # what is written names no folder of this machine
    training = AutoencoderTraining(autoencoder, num_steps, whole_share, learning_rate, kl_weight)
    checkpoints = ModelCheckpoint(output / "vae-training", save_last=True, every_n_train_steps=250, save_top_k=0)
    trainer = Trainer(
        accelerator="cpu",
        precision="bf16-mixed",
        max_steps=num_steps,
        val_check_interval=250,
        check_val_every_n_epoch=None,
        gradient_clip_val=1.0,
        callbacks=[checkpoints],
        logger=CSVLogger(output, "vae-log"),
        log_every_n_steps=25,
        enable_progress_bar=False,
    )
    trainer.fit(
        training,
        DataLoader(TensorDataset(clips[TRAINING_SEED]), batch_size, shuffle=True, drop_last=True),
        DataLoader(TensorDataset(clips[VALIDATION_SEED]), 8),
        ckpt_path="last" if (output / "vae-training" / "last.ckpt").exists() else None,
    )
    model = autoencoder.float().eval()
    measure_latents(model, clips[TRAINING_SEED][:512])
    model.save_pretrained(output / "vae")


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
