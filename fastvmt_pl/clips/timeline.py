"""The times at which the frames of a clip are shown, and the choice of frames."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from statistics import fmean, median

import numpy as np

USUAL = 0.25
"""Largest deviation of a usual interval between frames from the median interval, as a share of it."""


class ScarceFramesError(ValueError):
    """An interval has fewer frames than requested.

    Args:
        available: Number of frames that it has.
    """

    def __init__(self, available: int) -> None:
        super().__init__(f"{available} frames")
        self.available = available


@dataclass(frozen=True)
class Timeline:
    """The times at which the frames of a clip are shown.

    Attributes:
        times: Time at which each frame appears, in seconds since the first, ascending.
        end: Time at which the last frame disappears, in seconds.
    """

    times: Sequence[float]
    end: float

    @classmethod
    def regular(cls, num_frames: int, fps: float) -> "Timeline":
        """Return the timeline of a constant frame rate.

        Args:
            num_frames: Number of frames.
            fps: Frames per second.
        """
        return cls([number / fps for number in range(num_frames)], num_frames / fps)

    @cached_property
    def intervals(self) -> list[float]:
        """Seconds from each frame to the next; for a single frame, the time that it is shown."""
        gaps = [later - earlier for earlier, later in pairwise(self.times) if later > earlier]
        return gaps or [self.end - self.times[0]]

    @cached_property
    def period(self) -> float:
        """Seconds that a frame is usually shown: the mean of the intervals near the median."""
        middle = median(self.intervals)
        return fmean(interval for interval in self.intervals if abs(interval - middle) <= USUAL * middle)

    @cached_property
    def shortest(self) -> float:
        """The shortest interval; if all intervals are equal up to rounding, the period."""
        lowest, highest = min(self.intervals), max(self.intervals)
        regular = highest - self.period <= USUAL * self.period and self.period - lowest <= USUAL * self.period
        return self.period if regular else lowest

    def frames_at(self, seconds: Sequence[float]) -> list[int]:
        """Return the frame that is shown at each time.

        A frame counts as shown from half the shortest interval before it appears, which allows for rounding errors.

        >>> Timeline([0.0, 0.1, 0.2, 2.0], 2.1).frames_at([0.1, 0.17, 1.9, 2.0])
        [1, 2, 2, 3]
        """
        return [max(0, bisect_right(self.times, time + (0.5 + 1e-6) * self.shortest) - 1) for time in seconds]

    def choose(
        self,
        num_frames: int,
        start: float = 0.0,
        end: float | None = None,
        *,
        stride: int | None = None,
        rate: float | None = None,
    ) -> tuple[list[int], float]:
        """Choose frames at equal distances in time.

        Args:
            num_frames: Number of frames.
            start: Start of the interval in seconds.
            end: End of the interval in seconds; ``None`` is the clip's end.
            stride: Distance in periods; ``None`` spreads the frames over the interval.
            rate: Frames per second, instead of a stride.

        Returns:
            Numbers of the frames, and their frame rate.

        Raises:
            ScarceFramesError: If the interval has fewer frames.

        >>> Timeline.regular(24, 12.0).choose(5)
        ([0, 6, 12, 17, 23], 2.0869565217391304)
        """
        period, stop = self.period, self.end if end is None else min(self.end, end)
        first, last = self._on_frame(start), self._on_frame(stop - self.shortest)
        (earliest, latest) = self.frames_at([first, last])
        if start < 0 or start > self.end or last < first - 1e-6:
            raise ScarceFramesError(0)
        available = latest - earliest + 1
        distance = 1 / rate if rate else stride * period if stride else (last - first) / max(1, num_frames - 1)
        if rate or stride:
            available = min(available, int((last - first) / distance + 1e-6) + 1)
        if available < num_frames:
            raise ScarceFramesError(available)
        indices = self.frames_at((first + distance * np.arange(num_frames)).tolist())
        return indices, 1 / distance if num_frames > 1 else 1 / period

    def _on_frame(self, time: float) -> float:
        """Return the time at which the frame shown at a time appears, if that is near the time, else the time."""
        appears = self.times[self.frames_at([time])[0]]
        return appears if abs(appears - time) <= (0.5 + 1e-6) * self.shortest else time
