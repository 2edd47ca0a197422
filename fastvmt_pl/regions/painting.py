"""Paint the background over parts of a clip (Telea, An Image Inpainting Technique, 2004, in OpenCV)."""

import cv2
import numpy as np

from fastvmt_pl.regions.following import resized

SHORTER_SIDE = 240
"""Largest shorter side in pixels at which inpainting runs, since its time grows with the area."""
EDGE = np.ones((3, 3), np.uint8)
"""Kernel that grows a mask by the pixels at its edge, whose colours are mixed."""
RADIUS = 3
"""Distance in pixels from which colours are taken."""


def paint_over(frames: np.ndarray, masks: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Return a clip with the background painted over some masks, frame by frame.

    Args:
        frames: The clip, ``[frames, height, width, 3]``, 0 to 255.
        masks: Pixels to paint over, ``[frames, height, width]``.
        kept: Pixels that stay as they are and whose colours are not used, ``[frames, height, width]``.
    """
    painted = frames.copy()
    side = min(SHORTER_SIDE, *frames.shape[1:3])
    for frame, mask, subject in zip(painted, masks & ~kept, kept, strict=True):
        unknown = mask | subject
        if not mask.any() or unknown.all():
            continue
        small = resized(frame[None], side)[0]
        hole = cv2.resize(unknown.astype(np.uint8), small.shape[1::-1], interpolation=cv2.INTER_NEAREST)
        filled = cv2.inpaint(small, cv2.dilate(hole, EDGE), RADIUS, cv2.INPAINT_TELEA)
        inside = (cv2.dilate(mask.astype(np.uint8), EDGE) > 0) & ~subject
        frame[inside] = cv2.resize(filled, frame.shape[1::-1])[inside]
    return painted
