"""Read reference clips: which frames, cropped and resized to which geometry."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import interpolate

from .reader import ClipError, ClipReader


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


class TooShortError(ClipError):
    """A clip has fewer frames than were asked for.

    Args:
        message: What is missing, and what to change.
        num_frames: The most frames of the form 4 n + 1 that it has.
    """

    def __init__(self, message: str, num_frames: int) -> None:
        super().__init__(message)
        self.num_frames = num_frames


def read_clip(
    path: str | Path, num_frames: int, *, start: float = 0.0, end: float | None = None, stride: int | None = None
) -> Clip:
    """Read frames of a video file, in a process of its own, by decord, or by PyAV where decord cannot.

    Args:
        path: A video file of any format that FFmpeg reads.
        num_frames: How many frames to read.
        start: Start of the interval in seconds.
        end: End of the interval in seconds; ``None`` is the end of the file.
        stride: Take every stride-th frame from the start; ``None`` spreads the frames evenly over the interval.

    Raises:
        ClipError: If the file is not a whole video, decoding it crashes or hangs, or the interval has too few frames.
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
        raise ClipError(f"clip {path} is {'a folder' if path.is_dir() else 'no regular file'}; give a video file")
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
        raise TooShortError(
            f"clip {path} has {available} frames in the chosen interval{at_stride}"
            f" but {num_frames} were asked for; {change}, or a longer interval or a smaller stride",
            max(0, fits),
        )
    if stride is not None:
        return list(range(first, last, stride))[:num_frames]
    return np.linspace(first, last - 1, num_frames).round().astype(int).tolist()
