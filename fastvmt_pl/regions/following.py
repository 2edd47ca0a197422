"""Follow a subject through a clip by its motion, its colours and, while it is hidden, its last full view.

A similarity (translation, rotation, scale) is fitted to the subject's dense flow between frames and predicts where the
subject is. GrabCut then finds its outline there. If much less of the subject is visible than before, it is partly
hidden: its last full view is searched for near the predicted place, and the mask is the visible part of that view.

Axes: ``frames``, ``height``, ``width``; points are (x, y) in pixels.
"""

from dataclasses import dataclass
from typing import cast

import cv2
import numpy as np
import torch

from fastvmt_pl.evaluation.dense_flow import gray_flow, pixel_grid
from fastvmt_pl.evaluation.tracks import to_gray
from fastvmt_pl.regions.cutting import (
    INSIDE,
    OUTSIDE,
    PROBABLY_INSIDE,
    PROBABLY_OUTSIDE,
    Mask,
    Picture,
    box_of,
    cut_out,
    main_pieces,
)

SHORTER_SIDE = 240
"""Shorter side in pixels at which a subject is followed."""
SAME_COLOUR = 40.0
"""Largest difference, from 0 to 255, between two colours that count as the same."""
WELL_SEEN = 0.75
"""Visible share of the last full view above which no other place is searched."""
SEEN = 0.5
"""Smallest visible share of the last full view for which GrabCut finds the outline."""
RING = 12
"""Width in pixels of the surroundings that a subject's shade of gray is chosen against."""
WHOLE = 0.8
"""Smallest share of its area at which a subject counts as fully visible."""

Motion = np.ndarray
"""``[2, 3]``: a similarity of (x, y)."""
STILL: Motion = np.eye(2, 3)


@dataclass
class Look:
    """A subject in the last frame in which it was fully visible.

    Attributes:
        picture: That frame.
        mask: The subject in it.
        motion: Its motion since then.
        area: Its estimated area in pixels now.
    """

    picture: Picture
    mask: Mask
    motion: Motion
    area: float

    def seen_in(self, picture: Picture, motion: Motion) -> Mask:
        """Return where a frame shows the look, given the subject's motion since the last frame."""
        total = chained(motion, self.motion)
        left, top, right, bottom = box_of(self.mask)
        corners = np.array([[x, y, 1] for x in (left, right) for y in (top, bottom)]) @ total.T
        height, width = self.mask.shape
        low = np.clip(np.floor(corners.min(0)).astype(int), 0, [width - 1, height - 1])
        high = np.clip(np.ceil(corners.max(0)).astype(int), low + 1, [width, height])
        local, size = total.copy(), (int(high[0] - low[0]), int(high[1] - low[1]))
        local[:, 2] += total[:, :2] @ [left, top] - low
        look = cv2.warpAffine(self.picture[top:bottom, left:right].astype(np.float32), local, size)
        inside = cv2.warpAffine(self.mask[top:bottom, left:right].astype(np.float32), local, size) > 0.5
        there = picture[low[1] : high[1], low[0] : high[0]].astype(np.float32)
        alike = cv2.blur(np.abs(there - look).max(-1), (3, 3)) < SAME_COLOUR
        seen = np.zeros_like(self.mask)
        seen[low[1] : high[1], low[0] : high[0]] = inside & alike
        return seen

    def share_seen(self, picture: Picture, motion: Motion) -> float:
        """Return the share of the look that a frame shows, given the subject's motion since the last frame."""
        area = self.mask.sum() * enlargement(chained(motion, self.motion))
        return float(self.seen_in(picture, motion).sum() / max(area, 1.0))


def follow(frames: np.ndarray, first: Mask) -> np.ndarray:
    """Return the masks of a subject in all frames of a clip, ``[frames, height, width]``.

    Args:
        frames: The clip, ``[frames, height, width, 3]``, 0 to 255.
        first: The subject in the first frame.
    """
    pictures, size = resized(frames, SHORTER_SIDE), first.shape[::-1]
    small = cv2.resize(first.astype(np.float32), pictures.shape[2:0:-1], interpolation=cv2.INTER_AREA)
    masks = _follow(pictures, small >= min(0.5, small.max()))
    return np.stack([first, *(cv2.resize(mask.astype(np.float32), size) > 0.5 for mask in masks[1:])])


def resized(frames: np.ndarray, shorter_side: int) -> np.ndarray:
    """Return a clip resized to a length of its shorter side in pixels."""
    height, width = frames.shape[1:3]
    scale = shorter_side / min(height, width)
    size, method = (round(width * scale), round(height * scale)), cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.stack([cv2.resize(frame, size, interpolation=method) for frame in frames])


def _follow(pictures: np.ndarray, first: Mask) -> list[Mask]:
    gray = torch.from_numpy(contrasting(pictures, first))
    there, back = gray_flow(gray).numpy(), gray_flow(gray, backward=True).numpy()
    masks, motion, look = [first], STILL, Look(pictures[0], first, STILL, float(first.sum()))
    for picture, forth, home in zip(pictures[1:], there, back, strict=True):
        fitted, agreeing = fit_motion(masks[-1], forth, home)
        motion = _best_motion(look, picture, fitted, motion, masks[-1])
        seen, share = look.seen_in(picture, motion), look.share_seen(picture, motion)
        look.motion = chained(motion, look.motion)
        look.area *= float(np.clip(enlargement(motion), 0.8, 1.25))
        mask = np.zeros_like(first)
        if share > SEEN:
            mask = _outline(picture, moved(masks[-1], motion), moved(agreeing, motion))
        if mask.sum() > WHOLE * look.area:
            look = Look(picture, mask, STILL, max(float(mask.sum()), 0.97 * look.area))
        else:
            mask = cv2.morphologyEx(seen.astype(np.uint8), cv2.MORPH_OPEN, _disc(1)) > 0
        masks.append(mask)
    return masks


def contrasting(pictures: np.ndarray, first: Mask) -> np.ndarray:
    """Return a clip in gray, with the weights of the colours that best separate a subject from its surroundings.

    Args:
        pictures: The clip, ``[frames, height, width, 3]``, 0 to 255.
        first: The subject in the first frame.
    """
    around = (cv2.dilate(first.astype(np.uint8), _disc(RING)) > 0) & ~first
    if not first.any() or not around.any():
        return np.asarray(to_gray(torch.from_numpy(pictures)))
    inside, outside = pictures[0][first].astype(np.float32), pictures[0][around].astype(np.float32)
    spread = np.cov(inside.T) + np.cov(outside.T) + 25 * np.eye(3)  # Fisher's discriminant
    axis = np.linalg.solve(spread, inside.mean(0) - outside.mean(0))
    axis /= np.abs(axis).sum() + 1e-6
    shades = pictures.astype(np.float32) @ axis.astype(np.float32)
    low, high = shades.min(), shades.max()
    return np.asarray(np.round((shades - low) * (255 / max(high - low, 1.0))), np.uint8)


def fit_motion(mask: Mask, there: np.ndarray, back: np.ndarray) -> tuple[Motion | None, Mask]:
    """Return the similarity that fits most of a mask's flow, or ``None``, and the mask of the pixels that it fits.

    Args:
        mask: The subject.
        there: Flow (x, y) in pixels from its frame to the next, ``[height, width, 2]``.
        back: Flow from the next frame back.
    """
    agreeing, (rows, columns) = np.zeros_like(mask), np.nonzero(mask)
    start = np.stack([columns, rows], 1).astype(np.float32)
    end = start + there[rows, columns]
    if len(start) < 10:
        return None, agreeing
    landing = pixel_grid(*mask.shape).numpy() + there
    home = end + cv2.remap(back, landing[..., 0], landing[..., 1], cv2.INTER_LINEAR)[rows, columns]
    inside = (end >= 0).all(1) & (end <= np.array(mask.shape[::-1]) - 1).all(1)
    sure = inside & (np.linalg.norm(home - start, axis=1) < 1.5)
    if sure.sum() < 10:
        return None, agreeing
    cv2.setRNGSeed(0)
    fitted, _ = cv2.estimateAffinePartial2D(start[sure], end[sure], ransacReprojThreshold=2.0)
    if fitted is None:
        return None, agreeing
    close = np.linalg.norm(start @ fitted[:, :2].T + fitted[:, 2] - end, axis=1) < 2.0
    agreeing[rows[close], columns[close]] = True
    return cast(Motion, fitted), agreeing


def _best_motion(look: Look, picture: Picture, fitted: Motion | None, before: Motion, mask: Mask) -> Motion:
    """Return the motion under which most of the look is visible: the fitted one, or one near the last frame's."""
    rated = [] if fitted is None else [(look.share_seen(picture, fitted), fitted)]
    if not rated or rated[0][0] < WELL_SEEN:
        left, top, right, bottom = box_of(mask if mask.any() else look.mask)
        centre = np.array([(left + right) / 2, (top + bottom) / 2, 1.0])
        going = before @ centre - centre[:2]
        reach = min(float(np.hypot(*going)), 12.0) + 0.12 * np.sqrt(look.area) + 3
        for across, down in np.stack(np.meshgrid(*[np.linspace(-reach, reach, 13)] * 2), -1).reshape(-1, 2):
            candidate = STILL.copy()
            candidate[:, 2] = going + np.array([across, down])
            rated.append((look.share_seen(picture, candidate) - 0.003 * float(np.hypot(across, down)), candidate))
    return max(rated, key=lambda one: one[0])[1]


def _outline(picture: Picture, expected: Mask, agreeing: Mask) -> Mask:
    """Return the subject's mask near its expected one. Inner pixels that move with it are certain to belong to it."""
    disc = _disc(max(2, round(np.sqrt(expected.sum()) / 8)))
    inner, outer = cv2.erode(expected.astype(np.uint8), disc) > 0, cv2.dilate(expected.astype(np.uint8), disc) > 0
    labels = np.full(expected.shape, OUTSIDE, np.uint8)
    labels[outer], labels[expected], labels[inner & agreeing] = PROBABLY_OUTSIDE, PROBABLY_INSIDE, INSIDE
    found = main_pieces(cut_out(picture, labels, 1) & outer)
    return expected if found.sum() > 1.5 * expected.sum() else found


def chained(later: Motion, earlier: Motion) -> Motion:
    """Return the composition of two motions.

    >>> chained(np.array([[1.0, 0, 2], [0, 1, 0]]), np.array([[1.0, 0, 3], [0, 1, 1]])).tolist()
    [[1.0, 0.0, 5.0], [0.0, 1.0, 1.0]]
    """
    return np.asarray(later @ np.vstack([earlier, [0, 0, 1]]))


def moved(mask: Mask, motion: Motion) -> Mask:
    """Return a mask moved by a motion."""
    return np.asarray(cv2.warpAffine(mask.astype(np.float32), motion, mask.shape[::-1]) > 0.5)


def enlargement(motion: Motion) -> float:
    """Return the factor by which a motion scales areas."""
    return float(abs(np.linalg.det(motion[:, :2])))


def _disc(radius: int) -> np.ndarray:
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1)))
