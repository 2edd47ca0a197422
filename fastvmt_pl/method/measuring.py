"""Measure the motion of finished videos, all of one model and one way of reading motion in the same way."""

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from fastvmt_pl.backbones.backbone import Backbone
from fastvmt_pl.backbones.condition import Condition
from fastvmt_pl.backbones.request import Latents
from fastvmt_pl.clips.video_writing import flow_picture
from fastvmt_pl.method.extraction import read_motion
from fastvmt_pl.objectives import AttentionFlow, MotionTarget

MEASURED_TIMESTEP = 100.0
"""Noise level times 1000 at which finished videos are measured: low, where attention tracks best."""


def motion_of(backbone: Backbone, latents: Latents, motion: AttentionFlow) -> MotionTarget:
    """Return the motion of videos, all noised alike, under the null prompt, on the CPU.

    A model that needs an image is given each video's own first frame.

    Args:
        backbone: The model whose attention is read.
        latents: Clean latents of the videos.
        motion: How motion is read.
    """
    sigma = torch.full((1,), MEASURED_TIMESTEP / 1000)
    found = []
    for clean in latents.to(backbone.device).split(1):  # one at a time, which bounds the memory
        image = _first_frame(backbone, clean) if backbone.family.images == "required" else None
        found.append(read_motion(backbone, clean, sigma, [motion], image=image).to("cpu"))
    return MotionTarget.stack(found)


def _first_frame(backbone: Backbone, latents: Latents) -> Condition:
    _, *shape = latents.shape
    num_frames, *_ = backbone.video_shape((shape[0], shape[1], shape[2], shape[3]))
    return backbone.embed_images(backbone.decode(latents[:, :, :1])[:, :, :1].clamp(-1, 1), num_frames)


def attention_flow_error(found: MotionTarget, reference: MotionTarget) -> Float[Tensor, "jobs"]:
    """Return each video's mean end-point error of the flow in token cells."""
    (_, mine), (_, theirs) = found.of(None), reference.of(None)
    error: Tensor = (mine["flow"] - theirs["flow"]).norm(dim=-1).mean((1, 2))
    return error


def relative_attention_flow_error(found: MotionTarget, reference: MotionTarget) -> Float[Tensor, "jobs"]:
    """Return each video's end-point error as a share of the reference's flow, where and as much as that moves.

    That is the sum of error times length over the sum of squared length, of the reference's flow at each token: 1 for a
    still video. What the reference leaves still, such as a background, does not count.
    """
    (_, mine), (_, theirs) = found.of(None), reference.of(None)
    length = theirs["flow"].norm(dim=-1)
    error = ((mine["flow"] - theirs["flow"]).norm(dim=-1) * length).sum((1, 2))
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
    feature, measured = motion.of(None)
    assert isinstance(feature, AttentionFlow)
    pairs = feature.pairs(motion.num_frames)
    adjacent = pairs.second == pairs.first + 1
    shown = (pairs.first[adjacent] * (len(frames) - 1)) // (motion.num_frames - 1)
    return flow_picture(measured["flow"][number, adjacent], frames[shown], motion.grid)
