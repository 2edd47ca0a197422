"""Trackers on OpenCV, which need no weights: Lucas-Kanade on corners, and DIS flow on a grid."""

from abc import abstractmethod
from collections.abc import Callable
from itertools import pairwise

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from fastvmt_pl.errors import UserError
from fastvmt_pl.evaluation.dense_flow import consistent, gray_flow, is_inside, sample_at
from fastvmt_pl.evaluation.tracks import Frames, Gray, Tracks, grid_of_points, keyframes, to_gray

Points = Float[Tensor, "points 2"]
Step = Callable[[Points, int, int], tuple[Points, Bool[Tensor, "points"]]]
"""Moves points from one frame to a neighbouring one, and returns which of them were found."""


class ChainedTracker:
    """Tracks points of some keyframes from frame to frame, forward and backward, until they are lost.

    A point is lost when tracking it to the next frame and back does not return to its start.

    Args:
        num_keyframes: Frames in which tracks begin, evenly spread; more than one finds objects that enter late.
        tolerance: Largest distance in pixels between a start and the point that was tracked back.

    Raises:
        UserError: If a setting is out of range.
    """

    def __init__(self, num_keyframes: int = 3, tolerance: float = 2.0) -> None:
        if num_keyframes < 1:
            raise UserError(f"num_keyframes is {num_keyframes}; use at least 1")
        if tolerance <= 0:
            raise UserError(f"tolerance is {tolerance}; use a positive distance in pixels")
        self.num_keyframes, self.tolerance = num_keyframes, tolerance

    def track(self, frames: Frames) -> Tracks:
        """Return tracks of points that the tracker chooses."""
        gray = to_gray(frames)
        step, keys = self.prepare(gray), keyframes(len(gray), self.num_keyframes)
        found = [self._follow(self.points_of(gray[key]), key, len(gray), step) for key in keys]
        return Tracks(torch.cat([one.points for one in found]), torch.cat([one.visible for one in found]))

    def _follow(self, start: Points, key: int, num_frames: int, step: Step) -> Tracks:
        points = start[:, None].repeat(1, num_frames, 1)
        visible = torch.zeros(len(start), num_frames, dtype=torch.bool)
        visible[:, key] = True
        for frames in (range(key, num_frames), range(key, -1, -1)):
            for frame, following in pairwise(frames):
                points[:, following], found = step(points[:, frame], frame, following)
                visible[:, following] = visible[:, frame] & found
        return Tracks(points, visible)

    @abstractmethod
    def prepare(self, gray: Gray) -> Step:
        """Return the function that moves points from a frame to a neighbouring one."""

    @abstractmethod
    def points_of(self, picture: UInt8[Tensor, "height width"]) -> Points:
        """Return the points of a keyframe that are tracked."""


class LucasKanade(ChainedTracker):
    """Tracks corners by pyramidal Lucas-Kanade (Bouguet, 2001), checked forward and backward.

    Args:
        num_points: Largest number of corners of a keyframe (Shi and Tomasi, Good Features to Track, CVPR 1994).
        window: Side in pixels of the matched square.
        num_keyframes: Frames in which tracks begin, evenly spread.
        tolerance: Largest distance in pixels between a start and the point that was tracked back.
    """

    def __init__(self, num_points: int = 400, window: int = 21, num_keyframes: int = 3, tolerance: float = 2.0) -> None:
        super().__init__(num_keyframes, tolerance)
        if num_points < 1 or window < 3:
            raise UserError(f"num_points is {num_points} and window {window}; use at least 1 and at least 3")
        self.num_points, self.window = num_points, window

    def prepare(self, gray: Gray) -> Step:
        """Return the function that moves points from a frame to a neighbouring one."""
        pictures = gray.numpy()
        height, width = pictures.shape[1:]

        def follow(points: np.ndarray, frame: int, following: int) -> tuple[np.ndarray, np.ndarray]:
            moved, found, _ = cv2.calcOpticalFlowPyrLK(
                pictures[frame], pictures[following], points, None, winSize=(self.window,) * 2, maxLevel=3
            )
            return moved, found[:, 0] > 0

        def step(points: Points, frame: int, following: int) -> tuple[Points, Bool[Tensor, "points"]]:
            if len(points) == 0:
                return points, torch.zeros(0, dtype=torch.bool)
            start = points.contiguous().numpy()
            moved, there = follow(start, frame, following)
            back, again = follow(moved, following, frame)
            near = np.linalg.norm(back - start, axis=1) <= self.tolerance
            arrived = torch.from_numpy(moved)
            return arrived, torch.from_numpy(there & again & near) & is_inside(arrived, height, width)

        return step

    def points_of(self, picture: UInt8[Tensor, "height width"]) -> Points:
        """Return the corners of a keyframe."""
        apart = min(picture.shape) / 64
        corners = cv2.goodFeaturesToTrack(picture.numpy(), self.num_points, qualityLevel=0.01, minDistance=apart)
        return torch.zeros(0, 2) if corners is None else torch.from_numpy(corners).reshape(-1, 2)


class DenseFlow(ChainedTracker):
    """Tracks a grid of points along DIS flow, checked forward and backward.

    Args:
        num_rows: Rows of the grid; its cells are square.
        num_keyframes: Frames in which tracks begin, evenly spread.
        tolerance: Largest distance in pixels between a start and the point that was tracked back.
    """

    def __init__(self, num_rows: int = 16, num_keyframes: int = 3, tolerance: float = 2.0) -> None:
        super().__init__(num_keyframes, tolerance)
        if num_rows < 1:
            raise UserError(f"num_rows is {num_rows}; use at least 1")
        self.num_rows = num_rows

    def prepare(self, gray: Gray) -> Step:
        """Return the function that moves points from a frame to a neighbouring one."""
        flows = {1: gray_flow(gray), -1: gray_flow(gray, backward=True)}

        def step(points: Points, frame: int, following: int) -> tuple[Points, Bool[Tensor, "points"]]:
            direction, index = following - frame, min(frame, following)
            there, back = flows[direction][index][None], flows[-direction][index][None]
            moved = points[None] + sample_at(there, points[None])
            return moved[0], consistent(points[None], moved, back, self.tolerance)[0]

        return step

    def points_of(self, picture: UInt8[Tensor, "height width"]) -> Points:
        """Return the grid."""
        height, width = picture.shape
        return grid_of_points(height, width, self.num_rows)
