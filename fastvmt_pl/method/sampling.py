"""Sampling by flow matching: the noise schedule, noising and one Euler step.

Sigma is the noise level from 1 (pure noise) to 0; a timestep is sigma times 1000.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from fastvmt_pl.backbones.backbone import Backbone
from fastvmt_pl.backbones.condition import Condition
from fastvmt_pl.backbones.request import Latents
from fastvmt_pl.clips.clip import Video


def flow_matching_sigmas(num_steps: int, shift: float, strength: float = 1.0) -> Float[Tensor, "steps_and_end"]:
    """Return the noise levels that a sampler visits, ``num_steps`` and a final zero.

    All steps lie between ``strength`` and 0 before the shift, so that a strength below 1 makes steps shorter, not
    fewer (as in the published code of FastVMT).

    >>> flow_matching_sigmas(2, shift=3.0).tolist()
    [1.0, 0.75, 0.0]

    Args:
        num_steps: Denoising steps.
        shift: Shift towards high noise; 1 leaves the levels evenly spaced.
        strength: Where to start, from above 0 to 1 (pure noise), before the shift.
    """
    levels = torch.linspace(strength, 0, num_steps + 1, dtype=torch.float64)
    return (shift * levels / (1 + (shift - 1) * levels)).float()


def add_noise(
    clean: Float[Tensor, "*axes"], noise: Float[Tensor, "*axes"], sigma: float | Tensor
) -> Float[Tensor, "*axes"]:
    """Mix latents with noise at a noise level."""
    return (1 - sigma) * clean + sigma * noise


SHARED_SEED = -1
"""Seed of noise that belongs to no job, such as that in which references are read."""


def job_noise(shape: tuple[int, ...], seeds: list[int]) -> Float[Tensor, "jobs *axes"]:
    """Draw each job's noise from its own seed, on the CPU, so that it depends on no other job and no device."""
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def denoise(
    velocity: Float[Tensor, "*axes"], latents: Float[Tensor, "*axes"], sigmas: Float[Tensor, "steps_and_end"], step: int
) -> Float[Tensor, "*axes"]:
    """Take one step of Euler's method, as diffusers' ``FlowMatchEulerDiscreteScheduler`` does, to the bit.

    It keeps no memory of earlier latents, so it takes edited ones as they are.

    Args:
        velocity: Predicted velocity (noise less clean latents).
        latents: Latents at ``sigmas[step]``.
        sigmas: All noise levels, the final zero included, on the CPU, so that no step waits for a GPU.
        step: Which step this is, counted from 0.
    """
    return (latents.float() + (sigmas[step + 1] - sigmas[step]) * velocity).to(velocity.dtype)


def guided_velocity(
    backbone: Backbone,
    latents: Latents,
    timestep: float,
    condition: Condition,
    negative_condition: Condition,
    guidance_scale: float,
    low_noise_guidance_scale: float | None = None,
    conditional: Latents | None = None,
) -> Latents:
    """Predict the velocity with classifier-free guidance; a scale of 1 runs the model once.

    Args:
        backbone: The model.
        latents: Noisy latents.
        timestep: Noise level times 1000.
        condition: What each video shows.
        negative_condition: What to steer away from.
        guidance_scale: Classifier-free guidance scale.
        low_noise_guidance_scale: Another scale for a model's second transformer; ``None`` is the same.
        conditional: The velocity under ``condition``, if it is known already.
    """
    if low_noise_guidance_scale is not None and backbone.family.expert_at(timestep) == 1:
        guidance_scale = low_noise_guidance_scale
    velocity = backbone.velocity(latents, timestep, condition) if conditional is None else conditional
    if guidance_scale == 1:
        return velocity
    negative = backbone.velocity(latents, timestep, negative_condition, trajectory="uncond")
    return negative + guidance_scale * (velocity - negative)


@torch.no_grad()
def sample(
    backbone: Backbone,
    prompts: list[str],
    seeds: list[int],
    shape: tuple[int, int, int, int],
    sigmas: Float[Tensor, "steps_and_end"],
    guidance_scale: float,
    negative_prompt: str,
    images: Video | None = None,
    on_step: Callable[[], None] = lambda: None,
    low_noise_guidance_scale: float | None = None,
) -> Latents:
    """Make videos of prompts from pure noise, unguided by any motion, and return their latents.

    Args:
        backbone: The model.
        prompts: What each video is to show.
        seeds: Seed of each video's noise.
        shape: Channels, frames, height and width of the latents.
        sigmas: Noise levels, the final zero included.
        guidance_scale: Classifier-free guidance scale; 1 turns it off.
        negative_prompt: What to steer away from.
        images: The image that each video begins with; ``None`` for none.
        on_step: Called after each step, for progress.
        low_noise_guidance_scale: Another scale for a model's second transformer; ``None`` is the same.
    """
    condition = backbone.embed_prompts(prompts)
    negative = backbone.embed_prompts([negative_prompt]).expand(len(prompts))
    if images is not None:
        given = backbone.embed_images(images, backbone.video_shape(shape)[0])
        condition, negative = condition.joined(given), negative.joined(given)
    latents = condition.fixed(job_noise(shape, seeds).to(backbone.device))
    for step in range(len(sigmas) - 1):
        timestep = 1000 * float(sigmas[step])
        velocity = guided_velocity(
            backbone, latents, timestep, condition, negative, guidance_scale, low_noise_guidance_scale
        )
        latents = denoise(velocity, latents, sigmas, step)
        on_step()
    return latents
