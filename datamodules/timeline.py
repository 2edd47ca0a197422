"""When the frames of a clip are shown, and which of them to take."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from statistics import fmean, median

import numpy as np

USUAL = 0.25
"""Share by which an interval between frames may differ from the median of all and still count as usual."""


class ScarceFramesError(ValueError):
    """An interval has fewer frames than were asked for.

    Args:
        available: How many it has.
    """

    def __init__(self, available: int) -> None:
        super().__init__(f"{available} frames")
        self.available = available


@dataclass(frozen=True)
class Timeline:
    """When the frames of a clip are shown.

    Attributes:
        times: When each frame appears, in seconds since the first one, ascending.
        end: When the last frame disappears, in seconds.
    """

    times: Sequence[float]
    end: float

    @classmethod
    def regular(cls, num_frames: int, fps: float) -> "Timeline":
        """Return the timeline of frames that are shown for equally long.

        Args:
            num_frames: How many there are.
            fps: Frames a second.
        """
        return cls([number / fps for number in range(num_frames)], num_frames / fps)

    @cached_property
    def period(self) -> float:
        """Seconds that a frame is usually shown: the mean of the intervals near the median one."""
        gaps = [later - earlier for earlier, later in pairwise(self.times) if later > earlier]
        intervals = gaps or [self.end - self.times[0]]
        middle = median(intervals)
        return fmean(interval for interval in intervals if abs(interval - middle) <= USUAL * middle)

    def frames_at(self, seconds: Sequence[float]) -> list[int]:
        """Return the frame that is shown half a period after each time.

        Half a period, so that a time which misses the appearance of a frame by a rounding error still finds it.

        >>> Timeline([0.0, 0.1, 0.2, 2.0], 2.1).frames_at([0.1, 1.0, 2.0])
        [1, 2, 3]
        """
        return [max(0, bisect_right(self.times, time + (0.5 + 1e-6) * self.period) - 1) for time in seconds]

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
            num_frames: How many.
            start: Start of the interval in seconds.
            end: End of the interval in seconds; ``None`` is the clip's end.
            stride: Distance in periods; ``None`` spreads the frames over the interval.
            rate: Distance as frames a second, instead of a stride.

        Returns:
            Numbers of the frames, and how many of them are shown a second.

        Raises:
            ScarceFramesError: If the interval has fewer frames.

        >>> Timeline.regular(24, 12.0).choose(5)
        ([0, 6, 12, 17, 23], 2.0869565217391304)
        """
        period, limit = self.period, min(self.end, self.end if end is None else end) - self.period
        first, last = (self._on_frame(time) for time in (start, limit))
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
        """Return when the frame at a time appears, if that is within half a period, else the time."""
        appears = self.times[self.frames_at([time])[0]]
        return appears if abs(appears - time) <= (0.5 + 1e-6) * self.period else time
