"""Convert model outputs to pictures, and write pictures and videos atomically."""

import math
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc
from einops import rearrange, repeat
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate, pad

from fastvmt_pl.clips.clip import Video
from fastvmt_pl.errors import UserError
from fastvmt_pl.files.atomic import written_whole

MIN_SIDE = 240
"""Shorter side in pixels that small videos reach when they are enlarged by a whole factor for viewing."""


def to_frames(video: Video) -> UInt8[Tensor, "jobs frames height width 3"]:
    """Convert videos from -1 to 1 to pictures from 0 to 255, on the CPU."""
    pictures: Float[Tensor, "jobs frames height width 3"] = rearrange(video, "b c f h w -> b f h w c")
    return ((pictures.float() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu()


def enlarge(frames: UInt8[Tensor, "frames height width 3"]) -> UInt8[Tensor, "frames larger_height larger_width 3"]:
    """Enlarge small pictures by a whole factor for viewing."""
    factor = max(1, MIN_SIDE // min(frames.shape[1:3]))
    return repeat(frames, "f h w c -> f (h n) (w m) c", n=factor, m=factor)


def write_video(path: Path, frames: UInt8[Tensor, "frames height width 3"], fps: float) -> None:
    """Write an H.264 video of good quality that browsers play; an odd last row or column is repeated.

    The file is tagged with its colours: sRGB's primaries, and the matrix that players assume for its size in untagged
    files, BT.709 for high definition and BT.601 below.

    Args:
        path: An ``.mp4`` file.
        frames: Pictures, 0 to 255.
        fps: Frames per second.

    Raises:
        UserError: If ``fps`` is not positive.
    """
    if not 0 < fps < math.inf:
        raise UserError(f"fps is {fps}; use a positive number of frames per second")
    frames = torch.cat([frames, frames[:, -1:]], 1) if frames.shape[1] % 2 else frames
    frames = torch.cat([frames, frames[:, :, -1:]], 2) if frames.shape[2] % 2 else frames
    with written_whole(path) as temporary, _opened(temporary) as container:
        # With x264's macroblock tree, files of small pictures differ from run to run.
        options = {"crf": "12", "x264-params": "mbtree=0"}
        # Exact for rates such as 30000/1001, and for rates below one frame in a thousand seconds.
        rate = Fraction(fps).limit_denominator(1001) if fps >= 1 else 1 / Fraction(1 / fps).limit_denominator(1001)
        stream = container.add_stream("libx264", rate, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        matrix = Colorspace.ITU709 if is_high_definition(*frames.shape[1:3]) else Colorspace.ITU601
        colours = {"color_primaries": ColorPrimaries.BT709, "color_trc": ColorTrc.BT709, "color_range": ColorRange.MPEG}
        for name, value in {**colours, "colorspace": matrix}.items():
            setattr(stream.codec_context, name, value)
        for frame in frames.numpy():
            picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
            container.mux(stream.encode(picture.reformat(format="yuv420p", dst_colorspace=matrix)))
        container.mux(stream.encode(None))


def is_high_definition(height: int, width: int) -> bool:
    """Return whether players assume the colours of high definition for a size in pixels."""
    return width >= 1280 or height > 576


def _opened(path: Path) -> av.container.OutputContainer:
    """Open a video file for writing."""
    # As a URL, since FFmpeg reads a path such as run:1/output.mp4 as a URL of the protocol "run".
    return av.open(f"file:{path.absolute()}", "w", options={"movflags": "faststart"})


def side_by_side(videos: list[UInt8[Tensor, "frames height width 3"]]) -> UInt8[Tensor, "frames height wide 3"]:
    """Join videos of equal size side by side, with white gaps."""
    gap = max(2, videos[0].shape[2] // 24)
    spaced = [pad(video, (0, 0, 0, gap), value=255) for video in videos[:-1]]
    return torch.cat([*spaced, videos[-1]], 2)


def flow_picture(
    flow: Float[Tensor, "pairs tokens 2"],
    frames: UInt8[Tensor, "pairs height width 3"],
    grid: tuple[int, int],
    num_columns: int = 4,
) -> UInt8[Tensor, "picture_height picture_width 3"]:
    """Draw the flow of pairs of frames, each next to its first frame.

    Hue is the direction (red to the right, then clockwise), and saturation the length, full at the longest shown.

    Args:
        flow: Flow (down, right) in token cells.
        frames: The picture that each flow starts from.
        grid: Rows and columns of tokens.
        num_columns: Pairs in a row of the picture.
    """
    longest = flow.norm(dim=-1).amax().clamp(min=1e-6)
    direction = torch.atan2(flow[..., 0], flow[..., 1]).remainder(2 * torch.pi) / (2 * torch.pi)
    hsv = torch.stack([direction, flow.norm(dim=-1) / longest, torch.ones_like(direction)], -1)
    cells = rearrange((hsv * 255).to(torch.uint8), "p (h w) c -> p h w c", h=grid[0])
    rgb = torch.from_numpy(np.stack([np.asarray(Image.fromarray(c.numpy(), "HSV").convert("RGB")) for c in cells]))
    shown = interpolate(rearrange(rgb, "p h w c -> p c h w").float(), frames.shape[1:3])
    both = torch.cat([frames, rearrange(shown, "p c h w -> p h w c").to(torch.uint8)], 2)
    missing = -len(both) % num_columns
    both = torch.cat([both, both.new_full((missing, *both.shape[1:]), 255)])
    return enlarge(rearrange(both, "(r n) h w c -> 1 (r h) (n w) c", n=num_columns))[0]


def write_picture(path: Path, picture: UInt8[Tensor, "height width 3"]) -> None:
    """Write a PNG file."""
    with written_whole(path) as temporary:
        Image.fromarray(picture.numpy()).save(temporary)
