"""Sampling by flow matching: the noise schedule, noising and one Euler step.

Sigma is the noise level from 1 (pure noise) to 0; a timestep is sigma times 1000.
"""

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from jaxtyping import Float
from torch import Tensor


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
    """Take one step of diffusers' flow-match Euler scheduler.

    That scheduler keeps no memory of earlier latents, so it takes edited ones as they are. It gets the levels as they
    are: left alone it would shift its end points twice.

    Args:
        velocity: Predicted velocity (noise less clean latents).
        latents: Latents at ``sigmas[step]``.
        sigmas: All noise levels, the final zero included.
        step: Which step this is, counted from 0.
    """
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    scheduler.set_timesteps(sigmas=sigmas[:-1].tolist(), device=latents.device)
    scheduler.set_begin_index(step)
    denoised: Tensor = scheduler.step(velocity, scheduler.timesteps[step], latents, return_dict=False)[0]
    return denoised
