"""The camera's motion, from dense flow: the affine motion that most of the background agrees with."""

import cv2
import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from fastvmt_pl.evaluation.dense_flow import gray_flow, pixel_grid
from fastvmt_pl.evaluation.tracks import to_gray
from fastvmt_pl.regions.cutting import Mask
from fastvmt_pl.regions.following import resized

SHORTER_SIDE = 240
"""Shorter side in pixels of the frames whose flow is measured."""
SPACING = 4
"""Distance in pixels between the points that are fitted."""
TOLERANCE = 0.7
"""Distance in pixels up to which a point agrees with the camera (RANSAC)."""


def small_flow(frames: np.ndarray) -> np.ndarray:
    """Return the dense flow of a clip at :data:`SHORTER_SIDE`, ``[frames - 1, height, width, 2]``."""
    return gray_flow(to_gray(torch.from_numpy(resized(frames, SHORTER_SIDE)))).numpy()


def camera_step(flow: np.ndarray, hidden: Mask | None = None) -> np.ndarray | None:
    """Return the affine map ``[2, 3]`` of positions (x, y) from a frame to the next, or ``None`` if there is none.

    Args:
        flow: Flow between the frames in pixels, ``[height, width, 2]``.
        hidden: Pixels that do not belong to the background.
    """
    height, width = flow.shape[:2]
    seen = np.s_[:] if hidden is None else ~hidden[::SPACING, ::SPACING].reshape(-1)
    points = pixel_grid(height, width).numpy()[::SPACING, ::SPACING].reshape(-1, 2)[seen]
    ends = points + flow[::SPACING, ::SPACING].reshape(-1, 2)[seen]
    cv2.setRNGSeed(0)
    found = cv2.estimateAffine2D(points, ends, ransacReprojThreshold=TOLERANCE)[0] if len(points) >= 3 else None
    return None if found is None else np.asarray(found)


def camera_path(flow: np.ndarray, hidden: np.ndarray, part: tuple[int, int, int, int]) -> Float[Tensor, "frames 3 3"]:
    """Return the affine maps from the background of the first frame to that of each frame.

    They map (row, column, 1) in shares of a part of the frame. Where no motion can be measured, the camera stands
    still.

    Args:
        flow: The clip's :func:`small_flow`.
        hidden: Masks of what does not belong to the background, ``[frames, height, width]``.
        part: Left, top, width and height of the part of the frame, in pixels of the masks.
    """
    height, width = flow.shape[1:3]
    down, across = height / hidden.shape[1], width / hidden.shape[2]
    left, top, part_width, part_height = part
    pixels = np.array(  # (row, column) in shares of the part to (x, y) in pixels of the flow
        [
            [0, part_width * across, left * across - 0.5],
            [part_height * down, 0, top * down - 0.5],
            [0, 0, 1],
        ]
    )
    path = [np.eye(3)]
    for step, mask in zip(flow, hidden, strict=False):
        around = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3), np.uint8))
        found = camera_step(step, cv2.resize(around, (width, height)) > 0)
        motion = np.eye(3) if found is None else np.linalg.inv(pixels) @ np.vstack([found, [0, 0, 1]]) @ pixels
        path.append(motion @ path[-1])
    return torch.from_numpy(np.stack(path)).float()
