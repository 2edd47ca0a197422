"""Read a reference and a video made from it so that they can be compared frame by frame and pixel by pixel."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import UInt8
from torch import Tensor

from fastvmt_pl.video import to_frames

from .clips import Clip, check_file
from .reader import ClipError, ClipReader

SHORTER_SIDE = 256
"""Shorter side in pixels at which videos are compared: trackers need some, and distances then mean the same for all."""


@dataclass(frozen=True)
class Pair:
    """A reference and a video, of as many frames and of one size.

    Attributes:
        reference: The reference.
        output: The video.
        fps: Frames a second of both.
    """

    reference: UInt8[Tensor, "frames height width 3"]
    output: UInt8[Tensor, "frames height width 3"]
    fps: float


def align(reference: Clip, output: Clip) -> Pair:
    """Bring two clips together: in time by :func:`common_frames`, in space by cropping and resizing.

    The middle of the reference is cropped to the output's shape, as motion transfer does, and both are resized so that
    the shorter side has :data:`SHORTER_SIDE` pixels.

    Raises:
        ClipError: If they have fewer than two frames in common.
    """
    lengths, rates = (len(reference.frames), len(output.frames)), (reference.fps, output.fps)
    first, second = common_frames(lengths, rates, (reference.name, output.name))
    return _resized(
        Clip(reference.frames[first], reference.fps, reference.name),
        Clip(output.frames[second], output.fps, output.name),
    )


def read_pair(reference: str | Path, output: str | Path) -> Pair:
    """Read and align two video files; see :func:`align`.

    Raises:
        ClipError: If one of them cannot be read, or they have fewer than two frames in common.
    """
    readers = [ClipReader(check_file(path)) for path in (reference, output)]
    lengths, rates = (readers[0].num_frames, readers[1].num_frames), (readers[0].fps, readers[1].fps)
    chosen = common_frames(lengths, rates, (str(reference), str(output)))
    both = zip(readers, chosen, strict=True)
    return _resized(*(Clip(reader.read(indices), reader.fps, str(reader.path)) for reader, indices in both))


def common_frames(
    lengths: tuple[int, int], rates: tuple[float, float], names: tuple[str, str]
) -> tuple[list[int], list[int]]:
    """Return the frames of two clips that belong together, by the clock: from their beginnings to the shorter's end.

    They are taken at the lower of the two rates, each the nearest in time. Clips whose rates agree within one
    part in a hundred are taken frame by frame.

    Args:
        lengths: Numbers of frames.
        rates: Frames a second.
        names: What to call them.

    Raises:
        ClipError: If these are fewer than two.

    >>> common_frames((5, 9), (4.0, 8.0), ("a", "b"))
    ([0, 1, 2, 3, 4], [0, 2, 4, 6, 8])
    """
    rate = min(rates)
    if abs(rates[0] - rates[1]) <= 0.01 * rate:
        rates = (rate, rate)
    seconds = min((length - 1) / own for length, own in zip(lengths, rates, strict=True))
    times = torch.arange(int(seconds * rate + 1e-6) + 1) / rate
    if len(times) < 2:
        raise ClipError(f"{names[0]} and {names[1]} have fewer than two frames in common; use longer clips")
    first, second = ((times * own).round().int().tolist() for own in rates)
    return first, second


def _resized(reference: Clip, output: Clip) -> Pair:
    height, width = output.frames.shape[1:3]
    scale = SHORTER_SIDE / min(height, width)
    size = round(height * scale), round(width * scale)
    first, second = (to_frames(clip.to_video(size))[0] for clip in (reference, output))
    return Pair(first, second, min(reference.fps, output.fps))
