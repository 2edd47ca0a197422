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
"""Smallest share of a box that its subject fills; if less is found, the box itself is the subject."""
SMALLEST_PIECE = 0.1
"""Smallest piece of a subject, as a share of its largest."""
OUTSIDE, PROBABLY_OUTSIDE, PROBABLY_INSIDE, INSIDE = (
    cv2.GC_BGD,
    cv2.GC_PR_BGD,
    cv2.GC_PR_FGD,
    cv2.GC_FGD,
)


def cut_out(picture: Picture, labels: np.ndarray, rounds: int) -> Mask:
    """Return the mask of what has the colours of one part of a picture and not of another.

    Args:
        picture: The picture.
        labels: For each pixel, whether it belongs to the subject, for certain or probably.
        rounds: Times that the colours and the mask are found in turn.
    """
    mask = np.zeros(labels.shape, bool)
    left, top, right, bottom = grown(box_of(labels != OUTSIDE), labels.shape)
    part, known = picture[top:bottom, left:right], labels[top:bottom, left:right]
    if not np.isin(known, (PROBABLY_INSIDE, INSIDE)).any() or not np.isin(known, (OUTSIDE, PROBABLY_OUTSIDE)).any():
        return labels >= PROBABLY_INSIDE
    height, width = known.shape
    scale = SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    found = cv2.resize(known, size, interpolation=cv2.INTER_NEAREST)
    shown = cv2.resize(part, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
    cv2.setRNGSeed(0)  # its clusters of colours begin at random
    cv2.grabCut(shown, found, None, np.zeros((1, 65)), np.zeros((1, 65)), rounds, cv2.GC_INIT_WITH_MASK)
    inside = np.isin(found, (INSIDE, PROBABLY_INSIDE)).astype(np.float32)
    mask[top:bottom, left:right] = cv2.resize(inside, (width, height), interpolation=cv2.INTER_AREA) > 0.5
    return mask


def subject_in(picture: Picture, box: Box) -> Mask:
    """Return the mask of what a box surrounds; the whole box where nothing stands out from its surroundings."""
    left, top, right, bottom = box
    inside = np.zeros(picture.shape[:2], bool)
    inside[top:bottom, left:right] = True
    mask = main_pieces(cut_out(picture, np.where(inside, PROBABLY_INSIDE, OUTSIDE).astype(np.uint8), 5) & inside)
    return mask if mask.sum() >= SMALLEST_CUT * inside.sum() else inside


def box_of(mask: Mask) -> Box:
    """Return the box around a mask; an empty one if there is nothing in it."""
    rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
    if not len(rows):
        return 0, 0, 0, 0
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def grown(box: Box, shape: tuple[int, ...]) -> Box:
    """Return a box with half its size more on each side, as far as the picture goes."""
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
