"""Read reference clips: which frames, cropped and resized to which geometry."""

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
"""Pictures in -1 to 1."""


@dataclass(frozen=True)
class Clip:
    """A reference clip that has been read.

    Attributes:
        frames: Its pictures, 0 to 255.
        fps: Frames a second of these frames, so that a video of as many frames moves as fast as the clip.
        name: Where it comes from.
    """

    frames: UInt8[Tensor, "frames height width 3"]
    fps: float
    name: str

    @property
    def timeline(self) -> Timeline:
        """When each frame is shown."""
        return Timeline.regular(len(self.frames), self.fps)

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
    """Read frames of a clip at equal distances in time, as a player shows them.

    Pictures are upright, with square pixels, in sRGB; a high dynamic range is mapped to a standard one, and interlaced
    frames are made whole. Files are decoded in a process of its own.

    Args:
        path: A video file of any format that FFmpeg reads, or a folder of numbered pictures.
        num_frames: How many frames to read.
        start: Start of the interval in seconds.
        end: End of the interval in seconds; ``None`` is the end of the clip.
        stride: Take every stride-th frame from the start; ``None`` spreads the frames evenly over the interval.
        rate: Frames to take a second, instead of a stride.
        fps: Pictures a second of a folder of pictures.
        decoder: What makes the pictures of a video file, see :class:`~fastvmt_pl.clips.video_reader.ClipReader`.

    Raises:
        ClipError: If it is not a whole video, decoding it crashes or hangs, or the interval has too few frames.
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
    """Look at a video file or a folder of numbered pictures.

    Args:
        path: The file or folder.
        fps: Pictures a second of a folder of pictures.
        decoder: What makes the pictures of a video file.

    Raises:
        ClipError: If it is neither, a folder comes without its rate, or a file with one.
    """
    path = check_file(path)
    if path.is_dir():
        if fps is None:
            raise ClipError(f"clip {path} is a folder of pictures; say how many are shown a second, with --fps")
        if not 0 < fps < inf:
            raise ClipError(f"fps is {fps}; use a positive number of pictures a second")
        return PictureFolder(path, fps)
    if fps is not None:
        raise ClipError(f"clip {path} is a video file, which has its own frame rate; leave fps out")
    return ClipReader(path, decoder)


def check_file(path: str | Path) -> Path:
    """Return the path of what may be a clip.

    Raises:
        ClipError: If it is no file, an empty one, or a folder without pictures.
    """
    path = Path(path)
    if not path.exists():
        raise ClipError(f"clip {path} does not exist; check the path")
    if path.is_dir():
        if not find_pictures(path):
            raise ClipError(f"clip {path} is a folder without pictures; give a video file, or numbered pictures")
    elif not path.is_file():
        raise ClipError(f"clip {path} is no regular file; give a video file")
    elif path.stat().st_size == 0:
        raise ClipError(f"clip {path} is empty; was its download or copy cut short?")
    return path


def content_hash(path: str | Path) -> str:
    """Return the SHA-256 of a clip's file, or of the pictures of its folder in their order.

    Raises:
        ClipError: If it is none.
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
    how += "" if rate is None else f" at {rate:g} a second"
    return TooShortError(
        f"clip {path} has {available} frames in the chosen interval{how} but {num_frames} were asked for; {change}, "
        "or a longer interval or a smaller stride",
        max(0, fits),
    )
