"""What a datamodule tells the module of the jobs that it is to do, and what the module gives back."""

from dataclasses import dataclass

from jaxtyping import Float, UInt8
from torch import Tensor


@dataclass(frozen=True)
class TransferJobs:
    """Jobs of equal geometry that are optimised side by side without influencing each other.

    Attributes:
        prompts: What each job is to show.
        seeds: Seed of each job's noise.
        reference: Latents of each job's reference clip.
    """

    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    reference: Float[Tensor, "jobs channels frames height width"]


@dataclass(frozen=True)
class TransferResult:
    """What motion transfer made, job by job.

    Attributes:
        latents: The videos' latents.
        frames: The videos' pictures, 0 to 255.
        baseline: Pictures of the same start without guidance; ``None`` if they were not asked for.
    """

    latents: Float[Tensor, "jobs channels latent_frames latent_height latent_width"]
    frames: UInt8[Tensor, "jobs frames height width 3"]
    baseline: UInt8[Tensor, "jobs frames height width 3"] | None
