"""Find what moves against the background: where the flow deviates from that of the camera.

Axes: ``frames``, ``height``, ``width``, ``steps`` from one frame to the next.
"""

import cv2
import numpy as np
import torch

from fastvmt_pl.errors import UserError
from fastvmt_pl.evaluation.dense_flow import gray_flow, pixel_grid
from fastvmt_pl.evaluation.tracks import to_gray
from fastvmt_pl.regions.cutting import OUTSIDE, PROBABLY_INSIDE, Mask, cut_out, main_pieces
from fastvmt_pl.regions.following import follow, resized

SHORTER_SIDE = 240
"""Shorter side in pixels at which flow is compared with the camera's."""
DEVIATION = 1.0
"""Deviation from the camera's flow in pixels per frame at that size, from which something moves."""
NOISE = 4.0
"""The same as a multiple of the median deviation, which is that of the background."""
MARGIN = 0.02
"""Width of a subject's surroundings that seem to move with it, as a share of the shorter side."""
SMALLEST = 0.002
"""Smallest thing that moves, as a share of the frame."""


def moving_masks(frames: np.ndarray) -> np.ndarray:
    """Return what moves against the background in each frame of a clip, ``[frames, height, width]``.

    The camera's flow is the affine one that most of the frame agrees with.

    Args:
        frames: The clip, ``[frames, height, width, 3]``, 0 to 255.
    """
    flow = gray_flow(to_gray(torch.from_numpy(resized(frames, SHORTER_SIDE)))).numpy()
    deviations = [_deviation(step) for step in flow]
    deviations.append(deviations[-1])  # of the last frame, no flow is known
    size = frames.shape[2], frames.shape[1]
    found = [cv2.morphologyEx(each.astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)) for each in deviations]
    return np.stack([cv2.resize(each.astype(np.float32), size) > 0.5 for each in found])


def moving_besides(frames: np.ndarray, subject: np.ndarray) -> np.ndarray:
    """Return the outlines of what moves against the background besides a subject, ``[frames, height, width]``.

    Args:
        frames: The clip.
        subject: The masks of the subject.
    """
    apart = np.ones((2 * round(MARGIN * min(frames.shape[1:3])) + 1,) * 2, np.uint8)
    around = np.stack([cv2.dilate(mask.astype(np.uint8), apart) > 0 for mask in subject])
    others = moving_masks(frames) & ~around
    return np.stack([_cut(frame, mask) for frame, mask in zip(frames, others, strict=True)])


def follow_moving(frames: np.ndarray) -> np.ndarray:
    """Return the masks of all subjects that move against the background, ``[frames, height, width]``.

    Before the frame in which they begin to move, they are followed backward from there.

    Args:
        frames: The clip.

    Raises:
        UserError: If nothing moves.
    """
    found = np.stack([_cut(frame, mask) for frame, mask in zip(frames, moving_masks(frames), strict=True)])
    there = np.nonzero(found.mean((1, 2)) >= SMALLEST)[0]
    if not len(there):
        raise UserError("region is auto, but nothing moves against the background; give a box or a mask")
    first = int(there[0])
    found[: first + 1] = follow(frames[first::-1], found[first])[::-1]
    return found


def _deviation(flow: np.ndarray) -> Mask:
    height, width = flow.shape[:2]
    points = pixel_grid(height, width).numpy()[::4, ::4].reshape(-1, 2)
    ends = points + flow[::4, ::4].reshape(-1, 2)
    cv2.setRNGSeed(0)
    camera, _ = cv2.estimateAffine2D(points, ends, ransacReprojThreshold=0.7)
    if camera is None:
        return np.zeros((height, width), bool)
    grid = pixel_grid(height, width).numpy()
    away = np.linalg.norm(grid + flow - (grid @ camera[:, :2].T + camera[:, 2]), axis=-1)
    return np.asarray(away > max(DEVIATION, NOISE * float(np.median(away))))


def _cut(picture: np.ndarray, moving: Mask) -> Mask:
    """Return the outlines of what moves by its colours; what moves itself where they do not tell."""
    if not moving.any():
        return moving
    labels = np.where(moving, PROBABLY_INSIDE, OUTSIDE).astype(np.uint8)
    found = main_pieces(cut_out(picture, labels, 2) & moving)
    return found if found.sum() > moving.sum() / 4 else moving
