"""Measure the motion of finished videos, all of one model and one way of reading motion in the same way."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from fastvmt_pl.backbones.backbone import Backbone
from fastvmt_pl.backbones.request import Latents
from fastvmt_pl.clips.video_writing import flow_picture
from fastvmt_pl.method.sampling import SHARED_SEED, add_noise, job_noise
from fastvmt_pl.objectives.motion_target import MotionSettings, MotionTarget

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
    null, found = backbone.embed_prompts([""]), []
    for clean in latents.to(backbone.device).split(1):  # one at a time, which bounds the memory
        noise = job_noise(tuple(clean.shape[1:]), [SHARED_SEED]).to(clean.device)
        noisy = add_noise(clean, noise, MEASURED_TIMESTEP / 1000)
        query, key = backbone.query_key(noisy, MEASURED_TIMESTEP, null, settings.block, rotary=settings.rotary)
        found.append(MotionTarget.extract(query, key, backbone.token_grid(latents), settings).to("cpu"))
    return MotionTarget.stack(found)


def relative_attention_flow_error(found: MotionTarget, reference: MotionTarget) -> Float[Tensor, "jobs"]:
    """Return each video's end-point error as a share of the reference's flow, where and as much as that moves.

    That is the sum of error times length over the sum of squared length, of the reference's flow at each token: 1 for a
    still video. What the reference leaves still, such as a background, does not count.
    """
    length = reference.flow.norm(dim=-1)
    error = ((found.flow - reference.flow).norm(dim=-1) * length).sum((1, 2))
    relative: Tensor = error / length.pow(2).sum((1, 2)).clamp(min=1e-6)
    return relative


def motion_picture(
    motion: MotionTarget, number: int, frames: UInt8[Tensor, "frames height width 3"]
) -> UInt8[Tensor, "picture_height picture_width 3"]:
    """Picture the flow of a video from each latent frame to the next, each beside its frame.

    Args:
        motion: The motion of several videos.
        number: Which of them.
        frames: Its pictures.
    """
    pairs = motion.pairs
    adjacent = pairs.second == pairs.first + 1
    shown = (pairs.first[adjacent] * (len(frames) - 1)) // (motion.num_frames - 1)
    return flow_picture(motion.flow[number, adjacent], frames[shown], motion.grid)
