"""Read reference clips: choose frames, crop and resize."""

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from math import inf
from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import interpolate

from fastvmt_pl.clips.picture_folder import PictureFolder, find_pictures
from fastvmt_pl.clips.timeline import ScarceFramesError, Timeline
from fastvmt_pl.clips.video_reader import ClipError, ClipReader, DecoderName
from fastvmt_pl.files.file_hash import file_sha256

Video = Float[Tensor, "jobs 3 frames height width"]
"""Videos with values from -1 to 1."""


@dataclass(frozen=True)
class Clip:
    """A reference clip in memory.

    Attributes:
        frames: Its pictures, 0 to 255.
        fps: Frames per second of these frames. A video of them at this rate is as fast as the original.
        name: Its path, for messages.
    """

    frames: UInt8[Tensor, "frames height width 3"]
    fps: float
    name: str

    @property
    def timeline(self) -> Timeline:
        """The time at which each frame is shown."""
        return Timeline.regular(len(self.frames), self.fps)

    def to_video(self, size: tuple[int, int]) -> Float[Tensor, "1 3 frames height width"]:
        """Return the frames as :func:`fit` returns them."""
        return fit(self.frames, size)


def fit(
    frames: UInt8[Tensor, "frames old_height old_width 3"], size: tuple[int, int]
) -> Float[Tensor, "1 3 frames height width"]:
    """Crop the centre to the aspect ratio of ``size``, resize with anti-aliasing, and scale to -1 to 1."""
    pictures = []
    for frame in crop(frames, size):  # as floats, all of them take gigabytes
        picture = rearrange(frame, "height width rgb -> 1 rgb height width").float() / 127.5 - 1
        if picture.shape[-2:] != size:
            picture = interpolate(picture, size, mode="bilinear", antialias=True, align_corners=False)
        pictures.append(picture.clamp(-1, 1))
    return rearrange(torch.cat(pictures), "frames rgb height width -> 1 rgb frames height width")


def cropped_box(old_size: Sequence[int], size: tuple[int, int]) -> tuple[int, int, int, int]:
    """Return the largest central part of pictures that has the aspect ratio of ``size``: left, top, width, height.

    >>> cropped_box((100, 300), (50, 100))
    (50, 0, 200, 100)
    """
    height, width = size
    scale = min(old_size[0] / height, old_size[1] / width)
    crop_height, crop_width = round(height * scale), round(width * scale)
    return (old_size[1] - crop_width) // 2, (old_size[0] - crop_height) // 2, crop_width, crop_height


def crop(pictures: Tensor, size: tuple[int, int]) -> Tensor:
    """Crop pictures, ``[pictures, height, width, ...]``, to :func:`cropped_box`."""
    left, top, width, height = cropped_box(pictures.shape[1:3], size)
    return pictures[:, top : top + height, left : left + width]


class TooShortError(ClipError):
    """A clip has fewer frames than requested.

    Args:
        message: The problem, and what to change.
        num_frames: The largest number of the form 4 n + 1 that the clip has.
    """

    def __init__(self, message: str, num_frames: int) -> None:
        super().__init__(message)
        self.num_frames = num_frames


def read_clip(
    path: str | Path,
    num_frames: int,
    *,
    start: float = 0.0,
    end: float | None = None,
    stride: int | None = None,
    rate: float | None = None,
    fps: float | None = None,
    decoder: DecoderName = "pyav",
) -> Clip:
    """Read evenly spaced frames of a clip, as a player shows them.

    Pictures are upright, have square pixels and are in sRGB. A high dynamic range is mapped to a standard one, and
    interlaced video is deinterlaced. Video files are decoded in another process.

    Args:
        path: A video file in any format that FFmpeg reads, or a folder of numbered pictures.
        num_frames: Number of frames.
        start: Start of the interval in seconds.
        end: End of the interval in seconds; ``None`` is the end of the clip.
        stride: Take every stride-th frame from the start; ``None`` spreads the frames evenly over the interval.
        rate: Frames per second to read, instead of a stride.
        fps: Frames per second of a folder of pictures.
        decoder: Decoder of video files, see :class:`~fastvmt_pl.clips.video_reader.ClipReader`.

    Raises:
        ClipError: If it is not a complete video, its decoder crashes or hangs, or the interval has too few frames.
    """
    for name, value in {"stride": stride, "rate": rate}.items():
        if value is not None and not 0 < value < inf:
            raise ClipError(f"{name} is {value}; use a positive number, or null to spread the frames evenly")
    clip = open_clip(path, fps, decoder)
    try:
        indices, found = clip.timeline.choose(num_frames, start, end, stride=stride, rate=rate)
    except ScarceFramesError as error:
        raise _too_short(path, num_frames, error.available, stride, rate) from error
    return Clip(clip.read(indices), found, str(path))


def open_clip(path: str | Path, fps: float | None = None, decoder: DecoderName = "pyav") -> ClipReader | PictureFolder:
    """Open a video file or a folder of numbered pictures.

    Args:
        path: The file or folder.
        fps: Frames per second of a folder of pictures.
        decoder: Decoder of video files.

    Raises:
        ClipError: If it is neither, or ``fps`` is missing for a folder or given for a file.
    """
    path = check_file(path)
    if path.is_dir():
        if fps is None:
            raise ClipError(f"clip {path} is a folder of pictures; give its frame rate with --fps")
        if not 0 < fps < inf:
            raise ClipError(f"fps is {fps}; use a positive number of frames per second")
        return PictureFolder(path, fps)
    if fps is not None:
        raise ClipError(f"clip {path} is a video file, which has its own frame rate; remove fps")
    return ClipReader(path, decoder)


def check_file(path: str | Path) -> Path:
    """Return the path of a clip after simple checks.

    Raises:
        ClipError: If the path does not exist, or is an empty file or a folder without pictures.
    """
    path = Path(path)
    if not path.exists():
        raise ClipError(f"clip {path} does not exist; check the path")
    if path.is_dir():
        if not find_pictures(path):
            raise ClipError(f"clip {path} is a folder without pictures; give a video file, or numbered pictures")
    elif not path.is_file():
        raise ClipError(f"clip {path} is not a regular file; give a video file")
    elif path.stat().st_size == 0:
        raise ClipError(f"clip {path} is empty; was its download or copy cut short?")
    return path


def content_hash(path: str | Path) -> str:
    """Return the SHA-256 of a clip's file, or of its folder's pictures in their order.

    Raises:
        ClipError: If it is not a clip.
    """
    path = check_file(path)
    if not path.is_dir():
        return file_sha256(path)
    return sha256("".join(map(file_sha256, find_pictures(path))).encode()).hexdigest()


def _too_short(
    path: str | Path, num_frames: int, available: int, stride: int | None, rate: float | None
) -> TooShortError:
    """Return the error of an interval with too few frames."""
    fits = (available - 1) // 4 * 4 + 1
    change = f"use --num-frames {fits}" if fits >= 5 else "use a longer clip"
    how = "" if stride is None else f" at stride {stride}"
    how += "" if rate is None else f" at {rate:g} frames per second"
    return TooShortError(
        f"clip {path} has {available} frames in the chosen interval{how}, but {num_frames} were requested; {change}, "
        "or a longer interval or a smaller stride",
        max(0, fits),
    )
