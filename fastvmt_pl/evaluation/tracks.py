"""Tracks of points through a video, and the protocol of trackers.

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
    """The positions of points in each frame of a video.

    Attributes:
        points: Positions (x, y) in pixels; undefined where a point is not visible.
        visible: Whether a point was found with confidence; each point is visible in at least one frame.
    """

    points: Float[Tensor, "tracks frames 2"]
    visible: Bool[Tensor, "tracks frames"]


@runtime_checkable
class Tracker(Protocol):
    """Follows points through a video."""

    def track(self, frames: Frames) -> Tracks:
        """Return tracks of points that the tracker chooses."""


def keyframes(num_frames: int, num_keyframes: int) -> list[int]:
    """Return the frames in which tracks begin, evenly spread from the first to the last.

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
    """Convert a video to gray with as much contrast as possible.

    Gray is the first principal component of the video's colours, stretched to 0 to 255. Luminance is not enough: a red
    object on a gray background may have the background's luminance.
    """
    colours = frames.float() - frames.float().mean((0, 1, 2))
    axis = torch.linalg.eigh(einsum(colours, colours, "f h w a, f h w b -> a b")).eigenvectors[:, -1]
    shades = colours @ axis
    low, high = shades.aminmax()
    stretched: Tensor = (shades - low) * (255 / (high - low).clamp(min=1.0))
    return stretched.round().to(torch.uint8)
