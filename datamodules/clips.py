"""Read reference clips: which frames, decoded by what, cropped and resized to which geometry."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import interpolate

try:
    import decord
except ImportError:  # no wheel for this platform, see pyproject.toml
    decord = None


class ClipError(ValueError):
    """A clip cannot be used; the message says why and what to change."""


@dataclass(frozen=True)
class Clip:
    """A reference clip that has been read.

    Attributes:
        frames: Its pictures, 0 to 255.
        fps: Frames a second of these frames, so that a video of as many frames keeps the clip's pace.
        name: Where it comes from.
    """

    frames: UInt8[Tensor, "frames height width 3"]
    fps: float
    name: str

    def to_video(self, size: tuple[int, int]) -> Float[Tensor, "1 3 frames height width"]:
        """Crop the middle to the size's shape, resize with anti-aliasing, and scale to -1 to 1."""
        height, width = size
        old_height, old_width = self.frames.shape[1:3]
        scale = min(old_height / height, old_width / width)
        crop_height, crop_width = round(height * scale), round(width * scale)
        top, left = (old_height - crop_height) // 2, (old_width - crop_width) // 2
        middle = self.frames[:, top : top + crop_height, left : left + crop_width]
        pictures = []
        for frame in middle:  # one at a time: all frames of a large clip take gigabytes as numbers
            picture = rearrange(frame, "height width rgb -> 1 rgb height width").float() / 127.5 - 1
            if picture.shape[-2:] != size:
                picture = interpolate(picture, size, mode="bilinear", antialias=True, align_corners=False)
            pictures.append(picture.clamp(-1, 1))
        return rearrange(torch.cat(pictures), "frames rgb height width -> 1 rgb frames height width")


def read_clip(
    path: str | Path, num_frames: int, *, start: float = 0.0, end: float | None = None, stride: int | None = None
) -> Clip:
    """Read frames of a video file, by decord, or by PyAV where decord cannot.

    Args:
        path: A video file of any format that FFmpeg reads.
        num_frames: How many frames to read.
        start: Start of the interval in seconds.
        end: End of the interval in seconds; ``None`` is the end of the file.
        stride: Take every stride-th frame from the start; ``None`` spreads the frames evenly over the interval.

    Raises:
        ClipError: If the file is not a whole video, or the interval has too few frames.
    """
    path = check_file(path)
    reader = ClipReader(path)
    first = round(start * reader.fps)
    last = reader.num_frames if end is None else min(reader.num_frames, round(end * reader.fps))
    indices = _choose(path, num_frames, first, last, stride)
    frames = reader.read(indices)
    seconds = (indices[-1] - indices[0]) / reader.fps
    return Clip(frames, (num_frames - 1) / seconds if num_frames > 1 else reader.fps, str(path))


def check_file(path: str | Path) -> Path:
    """Return the path of what may be a video file.

    Raises:
        ClipError: If it is no file, or an empty one.
    """
    path = Path(path)
    if not path.exists():
        raise ClipError(f"clip {path} does not exist; check the path")
    if not path.is_file():
        raise ClipError(f"clip {path} is a folder; give a video file")
    if path.stat().st_size == 0:
        raise ClipError(f"clip {path} is empty; was its download or copy cut short?")
    return path


def _choose(path: Path, num_frames: int, first: int, last: int, stride: int | None) -> list[int]:
    """Return the numbers of the frames to read."""
    if stride is not None and stride < 1:
        raise ClipError(f"stride is {stride}; use 1 or more, or leave it out to spread the frames evenly")
    available = max(0, last - first) if stride is None else len(range(first, last, stride))
    if first < 0 or available < num_frames:
        fits = (available - 1) // 4 * 4 + 1
        change = f"use --num-frames {fits}" if fits >= 5 else "use a longer clip"
        at_stride = "" if stride is None else f" at stride {stride}"
        raise ClipError(
            f"clip {path} has {available} frames in the chosen interval{at_stride}"
            f" but {num_frames} were asked for; {change}, or a longer interval or a smaller stride"
        )
    if stride is not None:
        return list(range(first, last, stride))[:num_frames]
    return np.linspace(first, last - 1, num_frames).round().astype(int).tolist()


_DECORD_ERROR: type[Exception] = RuntimeError if decord is None else decord.DECORDError


class ClipReader:
    """A video file open in decord, or decoded by PyAV where decord is missing or fails."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.reader: Any = None
        try:
            if decord is None:
                raise RuntimeError("decord is not installed")
            self.reader = decord.VideoReader(str(path), num_threads=2)
            self.num_frames, self.fps = len(self.reader), float(self.reader.get_avg_fps())
        except (RuntimeError, _DECORD_ERROR):
            self._count_with_pyav()
        if not self.fps > 0:
            raise ClipError(f"clip {path} states no frame rate; convert it to mp4 first")

    def read(self, indices: list[int]) -> UInt8[Tensor, "frames height width 3"]:
        """Return frames by their numbers, which may come more than once."""
        if self.reader is not None:
            try:
                return torch.from_numpy(self.reader.get_batch(indices).asnumpy())
            except _DECORD_ERROR:
                self._count_with_pyav()
        wanted = set(indices)
        with self._open() as (_, frames):
            pictures = {number: _upright(frame) for number, frame in enumerate(frames) if number in wanted}
        return torch.from_numpy(np.stack([pictures[number] for number in indices]))

    @contextmanager
    def _open(self) -> Iterator[tuple[av.VideoStream, Iterator[av.VideoFrame]]]:
        try:
            with av.open(str(self.path)) as container:
                if not container.streams.video:
                    raise ClipError(f"clip {self.path} has no video stream; give a video file")
                stream = container.streams.video[0]
                yield stream, container.decode(stream)
        except ClipError:
            raise
        except (av.FFmpegError, ValueError) as error:
            raise ClipError(f"clip {self.path} cannot be decoded ({error}); is it a whole video file?") from error

    def _count_with_pyav(self) -> None:
        """Decode the whole file once, keeping nothing, to know how much of it can be read."""
        self.reader = None
        with self._open() as (stream, frames):
            self.num_frames = sum(1 for _ in frames)
            declared, self.fps = stream.frames, float(stream.average_rate or 0)
        if self.num_frames < max(1, declared):
            raise ClipError(
                f"clip {self.path} ends after {self.num_frames} of {declared} frames; it was cut short, get it again"
            )


def _upright(frame: av.VideoFrame) -> np.ndarray:
    """Return a frame's picture, turned as its file asks for; decord does so itself."""
    return np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)
