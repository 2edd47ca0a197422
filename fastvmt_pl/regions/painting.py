"""Paint the background over things in a clip (Telea, An Image Inpainting Technique, 2004, in OpenCV)."""

import cv2
import numpy as np

from fastvmt_pl.regions.following import resized

SHORTER_SIDE = 240
"""Largest shorter side in pixels at which is painted: the time grows with the area."""
RADIUS = 3
"""Distance in pixels from which colours are taken."""


def paint_over(frames: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """Return a clip in which the surroundings are painted over some masks, frame by frame.

    Args:
        frames: The clip, ``[frames, height, width, 3]``, 0 to 255.
        masks: What is painted over, ``[frames, height, width]``.
    """
    painted = frames.copy()
    side = min(SHORTER_SIDE, *frames.shape[1:3])
    for frame, mask in zip(painted, masks, strict=True):
        if not mask.any() or mask.all():
            continue
        small = resized(frame[None], side)[0]
        hole = cv2.resize(mask.astype(np.uint8), small.shape[1::-1], interpolation=cv2.INTER_NEAREST)
        hole = cv2.dilate(hole, np.ones((3, 3), np.uint8))  # edges are mixed colours
        filled = cv2.resize(cv2.inpaint(small, hole, RADIUS, cv2.INPAINT_TELEA), frame.shape[1::-1])
        inside = cv2.resize(hole, frame.shape[1::-1], interpolation=cv2.INTER_NEAREST) > 0
        frame[inside] = filled[inside]
    return painted
