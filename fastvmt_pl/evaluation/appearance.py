"""How much of a reference's appearance appears in a video.

Axes: ``videos``, ``frames``, ``height``, ``width``; colours are 0 to 255.
"""

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from fastvmt_pl.evaluation.tracks import Frames

NUM_LEVELS = 8
"""Levels of each of red, green and blue in a histogram."""


def colour_histogram(frames: Frames) -> Float[Tensor, "colours"]:
    """Return the share of each of 512 colours among a video's pixels."""
    levels = rearrange(frames.long() * NUM_LEVELS // 256, "f h w c -> c (f h w)")
    colours = (levels[0] * NUM_LEVELS + levels[1]) * NUM_LEVELS + levels[2]
    counts = torch.bincount(colours, minlength=NUM_LEVELS**3)
    return counts / counts.sum()


def appearance_leak(reference: Frames, output: Frames, baseline: Frames | None = None) -> float:
    """Return how much closer a video's colours are to a reference's than a baseline's colours are.

    ``max(0, (overlap - baseline overlap) / (1 - baseline overlap))``, where the overlap with the reference is that of
    colour histograms (Swain and Ballard, Color Indexing, 1991). 0: as close as the baseline; 1: the same colours.

    Args:
        reference: The reference clip.
        output: The video.
        baseline: A video of the same prompt without the reference. Without a baseline, colours that the prompt itself
            asks for count as leaked.
    """
    wanted = colour_histogram(reference)
    overlap, before = (
        0.0 if video is None else float(torch.minimum(colour_histogram(video), wanted).sum())
        for video in (output, baseline)
    )
    return max(0.0, (overlap - before) / max(1 - before, 1e-6))
