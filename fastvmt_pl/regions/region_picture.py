"""Pictures of a region in its clip."""

import torch
from einops import rearrange
from jaxtyping import UInt8
from torch import Tensor

from fastvmt_pl.evaluation.tracks import Frames
from fastvmt_pl.regions.region import Region

NUM_SHOWN = 6
"""Number of evenly spaced frames in the picture, in two rows."""
DARKER = 0.3
"""Brightness of the pixels outside the region, as a share of their own."""


def region_picture(region: Region, frames: Frames) -> UInt8[Tensor, "picture_height picture_width 3"]:
    """Return some of a clip's frames, darkened outside its region, in one picture."""
    numbers = torch.linspace(0, len(frames) - 1, NUM_SHOWN).round().long()
    return rearrange(dimmed(region, frames)[numbers], "(r c) h w rgb -> (r h) (c w) rgb", r=2)


def dimmed(region: Region, frames: Frames) -> Frames:
    """Return a clip's frames, darkened outside its region."""
    inside = region.subject if region.of == "subject" else ~region.subject
    return torch.where(inside[..., None], frames, (DARKER * frames).to(torch.uint8))
