"""Align a reference and a video, for comparison frame by frame and pixel by pixel."""

from dataclasses import dataclass
from pathlib import Path

from jaxtyping import UInt8
from torch import Tensor

from fastvmt_pl.clips.clip import Clip, open_clip
from fastvmt_pl.clips.timeline import Timeline
from fastvmt_pl.clips.video_reader import ClipError
from fastvmt_pl.clips.video_writing import to_frames

SHORTER_SIDE = 256
"""Shorter side in pixels at which videos are compared; large enough for trackers, and equal for all videos."""
ROUNDING = 0.1
"""Share of a frame by which a file may round its duration."""


@dataclass(frozen=True)
class Pair:
    """A reference and a video with the same size and number of frames.

    Attributes:
        reference: The reference.
        output: The video.
        fps: Frames per second of both.
    """

    reference: UInt8[Tensor, "frames height width 3"]
    output: UInt8[Tensor, "frames height width 3"]
    fps: float


def align(reference: Clip, output: Clip) -> Pair:
    """Align two clips: in time by :func:`common_frames`, in space by cropping and resizing.

    The reference is cropped in the centre to the output's aspect ratio, as in motion transfer. Both are resized to a
    shorter side of :data:`SHORTER_SIDE` pixels.

    Raises:
        ClipError: If they have fewer than two frames in common.
    """
    first, second, _ = common_frames(reference.timeline, output.timeline, (reference.name, output.name))
    return _resized(
        Clip(reference.frames[first], reference.fps, reference.name),
        Clip(output.frames[second], output.fps, output.name),
    )


def read_pair(reference: str | Path, output: str | Path, fps: float | None = None) -> Pair:
    """Read and align a reference and a video; see :func:`align`.

    Args:
        reference: Video file or folder of numbered pictures.
        output: Video file.
        fps: Frames per second of a folder of pictures.

    Raises:
        ClipError: If one of them cannot be read, or they have fewer than two frames in common.
    """
    readers = [open_clip(reference, fps), open_clip(output)]
    first, second, rate = common_frames(readers[0].timeline, readers[1].timeline, (str(reference), str(output)))
    both = zip(readers, (first, second), strict=True)
    return _resized(*(Clip(reader.read(indices), rate, str(reader.path)) for reader, indices in both))


def common_frames(first: Timeline, second: Timeline, names: tuple[str, str]) -> tuple[list[int], list[int], float]:
    """Return the frames of two clips that are shown at the same times, from the beginning to the shorter clip's end.

    Times follow the lower of the two frame rates. If the rates agree within 1 %, all frames are taken one by one.

    Args:
        first: Timeline of one clip.
        second: Timeline of the other.
        names: Names of the clips in messages.

    Returns:
        The frames of both, and their frame rate.

    Raises:
        ClipError: If there are fewer than two such frames.

    >>> common_frames(Timeline.regular(5, 4.0), Timeline.regular(9, 8.0), ("a", "b"))
    ([0, 1, 2, 3, 4], [0, 2, 4, 6, 8], 4.0)
    """
    clips, slower = (first, second), max(first.period, second.period)
    alike = slower - min(first.period, second.period) <= 0.01 * slower
    periods = [clip.period if alike else slower for clip in clips]
    count = min(
        int((clip.end - clip.period) / period + ROUNDING) + 1 for clip, period in zip(clips, periods, strict=True)
    )
    if count < 2:
        raise ClipError(f"{names[0]} and {names[1]} have fewer than two frames in common; use longer clips")
    chosen = [
        clip.frames_at([number * period for number in range(count)])
        for clip, period in zip(clips, periods, strict=True)
    ]
    return chosen[0], chosen[1], 1 / slower


def _resized(reference: Clip, output: Clip) -> Pair:
    height, width = output.frames.shape[1:3]
    scale = SHORTER_SIDE / min(height, width)
    size = round(height * scale), round(width * scale)
    first, second = (to_frames(clip.to_video(size))[0] for clip in (reference, output))
    return Pair(first, second, min(reference.fps, output.fps))
