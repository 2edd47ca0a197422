"""What is measured: a Wan transformer with random weights, set up in the middle of a guided step."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch import nn

from fastvmt_pl.backbones import DiffusersBackbone
from fastvmt_pl.backbones.condition import Condition
from fastvmt_pl.backbones.model_folder import BUNDLED
from fastvmt_pl.backbones.precision import Precision
from fastvmt_pl.backbones.request import Latents
from fastvmt_pl.method.motion_transfer import MotionTransfer
from fastvmt_pl.method.sampling import add_noise, job_noise
from fastvmt_pl.objectives import AttentionFlow, MotionTarget

NUM_LAYERS = 30
FFN_FACTOR = 8960 / 1536
"""Width of the feed-forward layers as a multiple of the transformer's, in Wan 2.1 1.3B."""
PATCH = (1, 2, 2)
SETTINGS = AttentionFlow()
PROMPT = "a red circle on a gray background"


@dataclass(frozen=True)
class Sizes:
    """How large the scaled-down Wan and its latents are.

    Attributes:
        num_heads: Attention heads.
        head_dim: Width of each.
        grid: Rows and columns of tokens in a latent frame.
        num_latent_frames: Latent frames.
        dtype: Precision of the transformer.
        device: Where it computes.
    """

    num_heads: int
    head_dim: int
    grid: tuple[int, int]
    num_latent_frames: int
    dtype: Precision
    device: str

    def __str__(self) -> str:
        """Say so in one line."""
        return (
            f"{NUM_LAYERS} blocks of {self.num_heads} heads x {self.head_dim}, random weights, {self.dtype}, "
            f"{self.num_latent_frames} latent frames of {self.grid[0]} x {self.grid[1]} tokens, 512 text tokens; "
            f"block {SETTINGS.block}, window {SETTINGS.window}, span {SETTINGS.span}, on {self.device}"
        )


@dataclass(frozen=True)
class Subject:
    """A job at its first guided step.

    Attributes:
        module: The module, which holds backbone, latents and conditions.
        target: What a cache would hand to the module.
        noisy_reference: The reference at this step's noise level.
        null: Condition of the empty prompt, with which the reference is read.
    """

    module: MotionTransfer
    target: MotionTarget
    noisy_reference: Latents
    null: Condition


def write_pipeline(folder: Path, transformer: WanTransformer3DModel, vae: AutoencoderKLWan | None = None) -> None:
    """Write a diffusers folder of these parts, with the others from the bundled model."""
    replaced = ["transformer"] if vae is None else ["transformer", "vae"]
    shutil.copytree(BUNDLED["wan-tiny"], folder, ignore=shutil.ignore_patterns(*replaced), dirs_exist_ok=True)
    transformer.save_pretrained(folder / "transformer")
    if vae is not None:
        vae.save_pretrained(folder / "vae")


def write_scaled_wan(folder: Path, sizes: Sizes) -> None:
    """Write a Wan with the proportions of Wan 2.1 1.3B, scaled down, with random weights."""
    torch.manual_seed(0)
    transformer = WanTransformer3DModel(
        patch_size=PATCH,
        num_attention_heads=sizes.num_heads,
        attention_head_dim=sizes.head_dim,
        in_channels=8,
        out_channels=8,
        text_dim=64,
        ffn_dim=round(FFN_FACTOR * sizes.num_heads * sizes.head_dim),
        num_layers=NUM_LAYERS,
    )
    write_pipeline(folder, transformer)


def load_subject(folder: Path, sizes: Sizes, **levers: Any) -> Subject:
    """Set up a job at its first guided step, its reference measured as the datamodule measures it."""
    backbone = DiffusersBackbone(str(folder), dtype=sizes.dtype, **levers).to(sizes.device)
    module = MotionTransfer(backbone)
    condition, negative, null = (backbone.embed_prompts([each]) for each in (PROMPT, module.negative_prompt, ""))
    backbone.release_text_encoder()
    module.condition, module.negative_condition = condition, negative
    shape = (8, sizes.num_latent_frames, PATCH[1] * sizes.grid[0], PATCH[2] * sizes.grid[1])
    clean, noise, own_noise = job_noise(shape, [0, 1, 2]).to(sizes.device).split(1)
    sigma = float(module.sigmas[0])
    module.latents = nn.Parameter(add_noise(clean, own_noise, sigma))
    noisy_reference = add_noise(clean, noise, sigma)
    with torch.no_grad():
        capture = backbone.capture(noisy_reference, module.timestep(0), null, SETTINGS.request)
    target = MotionTarget.extract(capture, [SETTINGS])
    return Subject(module, target, noisy_reference, null)
