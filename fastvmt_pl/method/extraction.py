"""Read motion from videos: one forward pass up to the features of some objectives."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from fastvmt_pl.backbones import Backbone
from fastvmt_pl.backbones.condition import Condition
from fastvmt_pl.backbones.request import Latents
from fastvmt_pl.method.sampling import SHARED_SEED, add_noise, job_noise
from fastvmt_pl.objectives import MotionFeature, MotionTarget
from fastvmt_pl.objectives.motion_target import joined_request


@torch.no_grad()
def read_motion(
    backbone: Backbone,
    clean: Latents,
    sigma: Float[Tensor, "jobs"],
    features: Sequence[MotionFeature],
    noise_seed: int = SHARED_SEED,
    image: Condition | None = None,
) -> MotionTarget:
    """Return the motion of videos, each noised with the same noise to a level of its own, under the null prompt.

    Args:
        backbone: The model that is read.
        clean: Clean latents of the videos.
        sigma: Noise level of each.
        features: What is read.
        noise_seed: Seed of the noise.
        image: What the model is told of the image that the videos begin with, one row for all; ``None`` for none.
    """
    noise = job_noise(tuple(clean.shape[1:]), [noise_seed]).to(clean.device).expand_as(clean)
    noisy = add_noise(clean, noise, sigma.view(-1, 1, 1, 1, 1).to(clean.device))
    condition = backbone.embed_prompts([""])
    if image is not None:
        condition = condition.joined(image)
    condition = condition.expand(len(clean))
    capture = backbone.capture(noisy, 1000 * sigma, condition, joined_request(features))
    return MotionTarget.extract(capture, features)


def read_levels(
    backbone: Backbone,
    clean: Float[Tensor, "1 channels latent_frames latent_height latent_width"],
    sigmas: Float[Tensor, "steps"],
    features: Sequence[MotionFeature],
    noise_seed: int = SHARED_SEED,
    batch_size: int = 1,
    image: Condition | None = None,
) -> MotionTarget:
    """Return the motion of one video at each noise level, a row a level; equal levels are read once.

    Args:
        backbone: The model that is read.
        clean: Clean latents of the video.
        sigmas: The noise levels, at least one.
        features: What is read.
        noise_seed: Seed of the noise.
        batch_size: Levels in a forward pass. More is faster and takes more memory.
        image: What the model is told of the image that the video begins with; ``None`` for none.
    """
    levels, which = sigmas.unique(return_inverse=True)
    parts = [
        read_motion(backbone, clean.expand(len(some), -1, -1, -1, -1), some, features, noise_seed, image)
        for some in levels.split(batch_size)
    ]
    return MotionTarget.stack(parts).rows(which.tolist())
