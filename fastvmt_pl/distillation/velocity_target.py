"""What a distilled LoRA learns to predict: velocities at noisy videos, or at the steps of a teacher."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from fastvmt_pl.backbones.request import Latents
from fastvmt_pl.method.sampling import add_noise, job_noise
from fastvmt_pl.method.transfer_jobs import DistillationBatch

GOLDEN_RATIO = (1 + math.sqrt(5)) / 2


class VelocityTarget(NamedTuple):
    """Noisy videos and what is to be predicted there.

    Attributes:
        latents: The noisy latents.
        sigma: Noise level of each.
        velocity: The target.
    """

    latents: Latents
    sigma: Float[Tensor, "videos"]
    velocity: Latents


def noised_videos(batch: DistillationBatch, seed: int, shift: float, levels: tuple[float, float]) -> VelocityTarget:
    """Return noised videos, and the velocities from video to noise (Lipman et al., arXiv 2210.02747).

    Args:
        batch: The videos.
        seed: Seed of noise and noise levels.
        shift: Shift of the noise levels.
        levels: Lowest and highest noise level.
    """
    level = spread(batch.draws, seed, GOLDEN_RATIO)
    low, high = (x / (shift - (shift - 1) * x) for x in levels)
    level = low + (high - low) * level
    sigma = (shift * level / (1 + (shift - 1) * level)).float().to(batch.latents.device)
    clean = batch.latents.float()
    noise = job_noise(tuple(clean.shape[1:]), [(seed << 32) + int(draw) for draw in batch.draws]).to(clean.device)
    return VelocityTarget(add_noise(clean, noise, rearrange(sigma, "b -> b 1 1 1 1")), sigma, noise - clean)


def teacher_steps(
    batch: DistillationBatch,
    seed: int,
    levels: tuple[float, float],
    negative_velocity: Callable[[Latents, Float[Tensor, "videos"]], Latents],
) -> VelocityTarget:
    """Return latents of the teacher's trajectories, and the velocities that lead to its next ones.

    The teacher's velocity was ``negative + scale * (predicted - negative)``; the target is ``predicted``.

    Args:
        batch: The trajectories.
        seed: Seed of the choice of steps.
        levels: Lowest and highest noise level.
        negative_velocity: Predicts the velocity of the negative prompt, given latents and noise levels.
    """
    assert batch.trajectory is not None
    assert batch.sigmas is not None
    every, trajectory, sigmas = torch.arange(len(batch.draws)), batch.trajectory.float(), batch.sigmas
    lowest, highest = levels
    first = (sigmas[:, :-1] > highest).sum(1).cpu()
    num_steps = (sigmas[:, :-1] >= lowest).sum(1).cpu() - first
    step = first + (spread(batch.draws, seed, GOLDEN_RATIO) * num_steps).long()
    latents, sigma = trajectory[every, step], sigmas[every, step]
    change, scale = (rearrange(x, "b -> b 1 1 1 1") for x in (sigmas[every, step + 1] - sigma, batch.guidance_scale))
    velocity = (trajectory[every, step + 1] - latents) / change
    if not (scale == 1).all():
        negative = negative_velocity(latents, sigma)
        velocity = negative + (velocity - negative) / scale
    return VelocityTarget(latents, sigma, velocity)


def spread(draws: Tensor, seed: int, ratio: float) -> Float[Tensor, "videos"]:
    """Return numbers in [0, 1) that are evenly spread over consecutive draws, in float64, on the CPU.

    They are the fractional parts of ``start + draw * ratio`` (a Weyl sequence), with a random start.

    Args:
        draws: Numbers of the draws.
        seed: Seed of the start.
        ratio: An irrational number.
    """
    start = torch.rand((), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return (start + draws.cpu().double() * ratio).frac()
