"""Find what moves against the background: where the flow deviates from that of the camera.

Axes: ``frames``, ``height``, ``width``, ``steps`` from one frame to the next.
"""

import cv2
import numpy as np

from fastvmt_pl.evaluation.dense_flow import pixel_grid
from fastvmt_pl.regions.camera import camera_step
from fastvmt_pl.regions.cutting import Mask, cut_within
from fastvmt_pl.regions.following import follow

DEVIATION = 1.0
"""Smallest deviation from the camera's flow that counts as motion, in pixels per frame of the dense flow."""
NOISE = 4.0
"""The same, as a multiple of the median deviation, which is the background's."""
MARGIN = 0.02
"""Width of the margin around a subject that seems to move with it, as a share of the shorter side."""
SMALLEST = 0.002
"""Smallest area that counts as a moving subject, as a share of the frame."""


def moving_masks(frames: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Return the masks of what moves against the background, ``[frames, height, width]``.

    The camera's flow is the affine one that most of the frame agrees with.

    Args:
        frames: The clip, ``[frames, height, width, 3]``, 0 to 255.
        flow: Its :func:`~fastvmt_pl.regions.camera.small_flow`.
    """
    deviations = [_deviation(step) for step in flow]
    deviations.append(deviations[-1])  # the last frame has no flow
    size = frames.shape[2], frames.shape[1]
    found = [cv2.morphologyEx(each.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)) for each in deviations]
    return np.stack([cv2.resize(each.astype(np.float32), size) > 0.5 for each in found])


def moving_besides(frames: np.ndarray, flow: np.ndarray, subject: np.ndarray) -> np.ndarray:
    """Return the masks of what moves against the background except a subject, ``[frames, height, width]``.

    Args:
        frames: The clip, ``[frames, height, width, 3]``, 0 to 255.
        flow: Its :func:`~fastvmt_pl.regions.camera.small_flow`.
        subject: The subject's masks.
    """
    apart = np.ones((2 * round(MARGIN * min(frames.shape[1:3])) + 1,) * 2, np.uint8)
    around = np.stack([cv2.dilate(mask.astype(np.uint8), apart) > 0 for mask in subject])
    return _cut(frames, moving_masks(frames, flow) & ~around)


def follow_moving(frames: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Return the masks of all subjects that move against the background, ``[frames, height, width]``.

    They are followed backward from the first frame in which they move.

    Args:
        frames: The clip, ``[frames, height, width, 3]``, 0 to 255.
        flow: Its :func:`~fastvmt_pl.regions.camera.small_flow`.

    Returns:
        The masks, which are empty if nothing moves.
    """
    found = _cut(frames, moving_masks(frames, flow))
    there = np.nonzero(found.mean((1, 2)) >= SMALLEST)[0]
    if not len(there):
        return np.zeros_like(found)
    first = int(there[0])
    found[: first + 1] = follow(frames[first::-1], found[first])[::-1]
    return found


def _deviation(flow: np.ndarray) -> Mask:
    height, width = flow.shape[:2]
    camera = camera_step(flow)
    if camera is None:
        return np.zeros((height, width), bool)
    grid = pixel_grid(height, width).numpy()
    away = np.linalg.norm(grid + flow - (grid @ camera[:, :2].T + camera[:, 2]), axis=-1)
    return np.asarray(away > max(DEVIATION, NOISE * float(np.median(away))))


def _cut(frames: np.ndarray, moving: np.ndarray) -> np.ndarray:
    """Refine the masks of each frame by colour. A mask that would lose most of its area is kept."""
    masks = moving.copy()
    for frame, mask in zip(frames, masks, strict=True):
        if mask.any():
            found = cut_within(frame, mask, 2)
            if found.sum() > mask.sum() / 4:
                mask[:] = found
    return masks
