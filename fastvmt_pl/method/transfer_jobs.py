"""What a datamodule tells the module of the jobs that it is to do, and what the module gives back."""

from dataclasses import dataclass
from typing import NamedTuple

from jaxtyping import Float, Int, UInt8
from torch import Tensor

from fastvmt_pl.backbones.condition import Condition


@dataclass(frozen=True)
class TransferJobs:
    """Jobs of equal geometry that are optimised side by side without influencing each other.

    Attributes:
        prompts: What each job is to show.
        seeds: Seed of each job's noise.
        reference: Latents of each job's reference clip.
        images: The image that each job's video begins with, as a video of one frame; ``None`` if it has none.
    """

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    reference: Float[Tensor, "jobs channels frames height width"]
    images: Float[Tensor, "jobs 3 1 pixel_height pixel_width"] | None = None


@dataclass(frozen=True)
class TransferResult:
    """What motion transfer made, job by job.

    Attributes:
        latents: The videos' latents.
        frames: The videos' pictures, 0 to 255.
        baseline: Pictures of the same start without guidance; ``None`` if they were not asked for.
        trajectory: The latents before each denoising step and at the end; ``None`` if they were not asked for.
    """

    latents: Float[Tensor, "jobs channels latent_frames latent_height latent_width"]
    frames: UInt8[Tensor, "jobs frames height width 3"]
    baseline: UInt8[Tensor, "jobs frames height width 3"] | None
    trajectory: Float[Tensor, "jobs steps_and_end channels latent_frames latent_height latent_width"] | None


class DistillationBatch(NamedTuple):
    """Videos that a LoRA learns from, and where in the training each of them stands.

    Attributes:
        latents: Clean latents of the videos.
        condition: What each of them is conditioned on.
        draws: A number of its own for each video of each step, from which its noise follows: the same whatever the
            number of processes, and after a restart.
        trajectory: The noisy latents before each denoising step and at the end, if they are learned from.
        sigmas: Their noise levels.
        guidance_scale: Scale of the classifier-free guidance that they were made with.
        problems: What could not be read since the last batch, and why.
    """

    latents: Float[Tensor, "videos channels frames height width"]
    condition: Condition
    draws: Int[Tensor, "videos"]
    trajectory: Float[Tensor, "videos steps_and_end channels frames height width"] | None
    sigmas: Float[Tensor, "videos steps_and_end"] | None
    guidance_scale: Float[Tensor, "videos"]
    problems: list[str]
