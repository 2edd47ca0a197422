"""Dense optical flow by DIS (Kroeger et al., Fast Optical Flow using Dense Inverse Search, ECCV 2016), in OpenCV."""

from itertools import pairwise

import cv2
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import grid_sample

from fastvmt_pl.errors import UserError
from fastvmt_pl.evaluation.tracks import Frames, Gray, to_gray

Flow = Float[Tensor, "steps height width 2"]
MIN_SIDE = 16
"""Smallest side of a picture in pixels for OpenCV's DIS flow."""


def dense_flow(frames: Frames, backward: bool = False) -> Flow:
    """Return the flow (x, y) in pixels from each frame to the next, on the grid of the first of the two.

    Args:
        frames: The video.
        backward: Return the flow from each next frame back instead, on the grid of the next frame.

    Raises:
        UserError: If the pictures are too small.
    """
    return gray_flow(to_gray(frames), backward)


def gray_flow(gray: Gray, backward: bool = False) -> Flow:
    """Return the flow of a video in shades of gray, see :func:`dense_flow`."""
    if min(gray.shape[1:]) < MIN_SIDE:
        raise UserError(f"the pictures are {gray.shape[1]} x {gray.shape[2]}; flow needs {MIN_SIDE} pixels a side")
    method = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)  # keeps no state from pair to pair
    pairs = pairwise(gray.numpy())
    found = [method.calc(*(pair[::-1] if backward else pair), None) for pair in pairs]
    return torch.stack([torch.from_numpy(flow) for flow in found]) if found else torch.zeros(0, *gray.shape[1:], 2)


def sample_at(
    maps: Float[Tensor, "batch height width channels"], points: Float[Tensor, "batch *axes 2"]
) -> Float[Tensor, "batch *axes channels"]:
    """Return the values of maps at points (x, y) in pixels, bilinear; outside, the values at the border."""
    height, width = maps.shape[1:3]
    flat = points.flatten(1, -2)[:, None]
    grid = (flat + 0.5) / flat.new_tensor([width, height]) * 2 - 1
    values = grid_sample(maps.movedim(-1, 1), grid, mode="bilinear", padding_mode="border", align_corners=False)
    return values[:, :, 0].movedim(1, -1).reshape(*points.shape[:-1], maps.shape[-1])


def pixel_grid(height: int, width: int) -> Float[Tensor, "height width 2"]:
    """Return the position (x, y) of each pixel."""
    y, x = torch.meshgrid(torch.arange(float(height)), torch.arange(float(width)), indexing="ij")
    return torch.stack([x, y], -1)


def is_inside(points: Float[Tensor, "*axes 2"], height: int, width: int) -> Bool[Tensor, "*axes"]:
    """Return which points (x, y) in pixels are inside the picture."""
    limits = points.new_tensor([width - 1, height - 1])
    return ((points >= 0) & (points <= limits)).all(-1)


def consistent(
    points: Float[Tensor, "batch *axes 2"],
    moved: Float[Tensor, "batch *axes 2"],
    backward: Flow,
    tolerance: float,
) -> Bool[Tensor, "batch *axes"]:
    """Return which points the backward flow moves back to their start; the others are occluded.

    Args:
        points: Positions in the first frame.
        moved: Positions in the next frame.
        backward: The backward flow of each step.
        tolerance: Largest distance in pixels between a start and the point that was moved back.
    """
    height, width = backward.shape[1:3]
    back = moved + sample_at(backward, moved)
    returned: Tensor = (back - points).norm(dim=-1) <= tolerance
    return is_inside(moved, height, width) & returned
