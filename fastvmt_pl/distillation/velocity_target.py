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
    path, step = _Paths(batch), _drawn_step(batch, seed, levels)
    (latents, sigma), (after, level) = path.at(step), path.at(step + 1)
    velocity = (after - latents) / rearrange(level - sigma, "b -> b 1 1 1 1")
    scale = rearrange(batch.guidance_scale, "b -> b 1 1 1 1")
    if not (scale == 1).all():
        negative = negative_velocity(latents, sigma)
        velocity = negative + (velocity - negative) / scale
    return VelocityTarget(latents, sigma, velocity)


def large_steps(
    batch: DistillationBatch, seed: int, levels: tuple[float, float], num_steps: int, shift: float
) -> VelocityTarget:
    """Return latents of the teacher's trajectories, and the velocities of steps so large that few lead to the end.

    A step from any noise level is as long, before the shift, as one of ``num_steps`` from pure noise, and has the
    teacher's classifier-free guidance in it.

    Args:
        batch: The trajectories.
        seed: Seed of the choice of steps.
        levels: Lowest and highest noise level.
        num_steps: Denoising steps from pure noise.
        shift: Shift of the noise levels.
    """
    path, step = _Paths(batch), _drawn_step(batch, seed, levels)
    latents, sigma = path.at(step)
    level = (sigma / (shift - (shift - 1) * sigma) - 1 / num_steps).clamp(min=0)
    end = shift * level / (1 + (shift - 1) * level)
    velocity = (path.interpolated(end) - latents) / rearrange(end - sigma, "b -> b 1 1 1 1")
    return VelocityTarget(latents, sigma, velocity)


class _Paths:
    """Trajectories of videos, which lead in straight steps from one noise level to the next."""

    def __init__(self, batch: DistillationBatch) -> None:
        assert batch.trajectory is not None
        assert batch.sigmas is not None
        self.latents, self.sigmas = batch.trajectory.float(), batch.sigmas
        self.videos = torch.arange(len(batch.draws))

    def at(self, step: Tensor) -> tuple[Latents, Float[Tensor, "videos"]]:
        """Return latents and noise level of each video at a step of its own."""
        return self.latents[self.videos, step], self.sigmas[self.videos, step]

    def interpolated(self, sigma: Float[Tensor, "videos"]) -> Latents:
        """Return the latents at a noise level of each video's own."""
        step = ((self.sigmas > sigma[:, None]).sum(1) - 1).clamp(min=0).cpu()
        (before, high), (after, low) = self.at(step), self.at(step + 1)
        return torch.lerp(before, after, rearrange((high - sigma) / (high - low), "b -> b 1 1 1 1"))


def _drawn_step(batch: DistillationBatch, seed: int, levels: tuple[float, float]) -> Tensor:
    """Return a step of each video's trajectory that begins between two noise levels."""
    assert batch.sigmas is not None
    lowest, highest = levels
    first = (batch.sigmas[:, :-1] > highest).sum(1).cpu()
    num_steps = (batch.sigmas[:, :-1] >= lowest).sum(1).cpu() - first
    return first + (spread(batch.draws, seed, GOLDEN_RATIO) * num_steps).long()


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
