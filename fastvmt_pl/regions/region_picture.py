"""Picture what was followed through a clip."""

import torch
from einops import rearrange
from jaxtyping import UInt8
from torch import Tensor

from fastvmt_pl.evaluation.tracks import Frames
from fastvmt_pl.regions.region import Region

NUM_SHOWN = 6
"""Frames of the picture, evenly spread, in two rows."""
DARKER = 0.3
"""Brightness of what is outside the region."""


def region_picture(region: Region, frames: Frames) -> UInt8[Tensor, "picture_height picture_width 3"]:
    """Return frames of a clip with what is outside its region darkened.

    Args:
        region: The region.
        frames: The clip's frames.
    """
    numbers = torch.linspace(0, len(frames) - 1, NUM_SHOWN).round().long()
    return rearrange(dimmed(region, frames)[numbers], "(r c) h w rgb -> (r h) (c w) rgb", r=2)


def dimmed(region: Region, frames: Frames) -> Frames:
    """Return a clip's frames with what is outside its region darkened."""
    inside = region.subject if region.of == "subject" else ~region.subject
    return torch.where(inside[..., None], frames, (DARKER * frames).to(torch.uint8))
