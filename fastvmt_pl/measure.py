"""Measure the motion of finished videos, all in the same way, so that it can be compared."""

import torch

from fastvmt_pl.backbones.protocol import Backbone, Latents
from fastvmt_pl.motion.target import MotionSettings, MotionTarget
from fastvmt_pl.sampling import SHARED_SEED, add_noise, job_noise

MEASURED_TIMESTEP = 100.0
"""Noise level times 1000 at which finished videos are measured: low, where attention tracks best."""


@torch.no_grad()
def motion_of(backbone: Backbone, latents: Latents, settings: MotionSettings) -> MotionTarget:
    """Return the motion of videos, all noised alike, under the null prompt, on the CPU.

    Args:
        backbone: The model whose attention is read.
        latents: Clean latents of the videos.
        settings: How motion is read.
    """
    latents = latents.to(backbone.device)
    noise = job_noise(tuple(latents.shape[1:]), [SHARED_SEED]).to(latents.device).expand_as(latents)
    text = backbone.embed_prompts([""]).expand(len(latents), -1, -1)
    noisy = add_noise(latents, noise, MEASURED_TIMESTEP / 1000)
    query, key = backbone.query_key(noisy, MEASURED_TIMESTEP, text, settings.block, rotary=settings.rotary)
    return MotionTarget.extract(query, key, backbone.token_grid(latents), settings).to("cpu")
