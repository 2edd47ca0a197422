"""Tracks of points through a video, and what makes them.

Axes: ``tracks``, ``frames``, ``height``, ``width``; points are (x, y) in pixels.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from einops import einsum
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

Frames = UInt8[Tensor, "frames height width 3"]
Gray = UInt8[Tensor, "frames height width"]


@dataclass(frozen=True)
class Tracks:
    """Where points of a video are in each of its frames.

    Attributes:
        points: Their positions (x, y) in pixels; of no meaning where a point is not visible.
        visible: Where each was found with confidence; each in one frame at least.
    """

    points: Float[Tensor, "tracks frames 2"]
    visible: Bool[Tensor, "tracks frames"]


@runtime_checkable
class Tracker(Protocol):
    """Follows points through a video."""

    def track(self, frames: Frames) -> Tracks:
        """Return tracks of points of its own choice."""


def keyframes(num_frames: int, num_keyframes: int) -> list[int]:
    """Return frames to begin tracks in, evenly spread from the first to the last.

    >>> keyframes(17, 3)
    [0, 8, 16]
    """
    frames = torch.linspace(0, num_frames - 1, min(num_keyframes, num_frames)).round().int()
    return [int(frame) for frame in frames.unique()]


def grid_of_points(height: int, width: int, num_rows: int) -> Float[Tensor, "points 2"]:
    """Return points (x, y) in pixels, at the centres of a grid of square cells."""
    cell = height / num_rows
    y = (torch.arange(num_rows) + 0.5) * cell
    x = torch.arange(cell / 2, width, cell)
    return torch.cartesian_prod(y, x).flip(1)


def to_gray(frames: Frames) -> Gray:
    """Return a video in the shades of gray that tell most of its colours apart.

    They are the first principal component of its colours, stretched over 0 to 255. Luminance would not do: a red thing
    on a gray ground may have the ground's.
    """
    colours = frames.float() - frames.float().mean((0, 1, 2))
    axis = torch.linalg.eigh(einsum(colours, colours, "f h w a, f h w b -> a b")).eigenvectors[:, -1]
    shades = colours @ axis
    low, high = shades.aminmax()
    stretched: Tensor = (shades - low) * (255 / (high - low).clamp(min=1.0))
    return stretched.round().to(torch.uint8)
