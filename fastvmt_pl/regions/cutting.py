"""Cut a subject out of a picture by its colours (GrabCut, Rother et al., SIGGRAPH 2004, in OpenCV).

Axes: ``height``, ``width``; boxes are (left, top, right, bottom) in pixels, without the right and bottom ends.
"""

import cv2
import numpy as np

Picture = np.ndarray
"""``[height, width, 3]``, 0 to 255."""
Mask = np.ndarray
"""``[height, width]``, booleans."""
Box = tuple[int, int, int, int]
SIDE = 160
"""Longer side in pixels of the picture in which a subject is cut out."""
SMALLEST_CUT = 0.15
"""Smallest share of its box that a subject fills. If less is found, the whole box is the subject."""
SMALLEST_PIECE = 0.1
"""Smallest piece of a subject, as a share of its largest."""
OUTSIDE, PROBABLY_OUTSIDE, PROBABLY_INSIDE, INSIDE = cv2.GC_BGD, cv2.GC_PR_BGD, cv2.GC_PR_FGD, cv2.GC_FGD


def cut_out(picture: Picture, labels: np.ndarray, rounds: int) -> Mask:
    """Return the mask of a picture's subject, found by its colours.

    Args:
        picture: The picture.
        labels: Label of each pixel: ``OUTSIDE`` or ``INSIDE`` for certain, or only probably.
        rounds: Number of GrabCut iterations.
    """
    left, top, right, bottom = grown(box_of(labels != OUTSIDE), labels.shape)
    part, known = picture[top:bottom, left:right], labels[top:bottom, left:right]
    if not np.isin(known, (PROBABLY_INSIDE, INSIDE)).any() or not np.isin(known, (OUTSIDE, PROBABLY_OUTSIDE)).any():
        return labels >= PROBABLY_INSIDE
    height, width = known.shape
    scale = SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    found = cv2.resize(known, size, interpolation=cv2.INTER_NEAREST)
    shown = cv2.resize(part, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    cv2.setRNGSeed(0)  # GrabCut initialises its colour clusters at random
    cv2.grabCut(shown, found, None, np.zeros((1, 65)), np.zeros((1, 65)), rounds, cv2.GC_INIT_WITH_MASK)
    inside = np.isin(found, (INSIDE, PROBABLY_INSIDE)).astype(np.float32)
    mask = np.zeros(labels.shape, bool)
    mask[top:bottom, left:right] = cv2.resize(inside, (width, height), interpolation=cv2.INTER_AREA) > 0.5
    return mask


def cut_within(picture: Picture, bounds: Mask, rounds: int) -> Mask:
    """Return the mask of the main pieces of a subject that is somewhere within a mask; see :func:`cut_out`."""
    return main_pieces(cut_out(picture, np.where(bounds, PROBABLY_INSIDE, OUTSIDE).astype(np.uint8), rounds) & bounds)


def subject_in(picture: Picture, box: Box) -> Mask:
    """Return the mask of the subject in a box, or of the whole box if no subject stands out."""
    left, top, right, bottom = box
    inside = np.zeros(picture.shape[:2], bool)
    inside[top:bottom, left:right] = True
    mask = cut_within(picture, inside, 5)
    return mask if mask.sum() >= SMALLEST_CUT * inside.sum() else inside


def box_of(mask: Mask) -> Box:
    """Return the box around a mask. It has no area if the mask is empty."""
    rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
    if not len(rows):
        return 0, 0, 0, 0
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def grown(box: Box, shape: tuple[int, ...]) -> Box:
    """Return a box grown by half its size on each side, within a picture of this shape."""
    left, top, right, bottom = box
    across, down = max(4, (right - left) // 2), max(4, (bottom - top) // 2)
    return max(0, left - across), max(0, top - down), min(shape[1], right + across), min(shape[0], bottom + down)


def main_pieces(mask: Mask) -> Mask:
    """Return a mask without its small pieces."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    if count < 3:
        return mask
    sizes = stats[1:, cv2.CC_STAT_AREA]
    return np.isin(labels, 1 + np.nonzero(sizes >= SMALLEST_PIECE * sizes.max())[0])
