"""Convert a decoded frame to the picture that a player shows: upright, with square pixels, in sRGB."""

from collections import deque
from collections.abc import Iterator, Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any, NamedTuple

import av
import numpy as np
from av.filter import Graph
from av.sidedata.sidedata import Type
from av.video.reformatter import ColorPrimaries, ColorRange, ColorTrc, Interpolation

RGB, BT709, UNSPECIFIED, BT601, BT2020 = 0, 1, 2, 5, 9
MATRICES = {RGB: BT709, BT709: BT709, 4: 4, BT601: BT601, 6: BT601, 7: 7, BT2020: BT2020, 10: BT2020}
"""FFmpeg's matrix for conversion, by the file's matrix number of H.273."""
HDR: dict[int, str] = {ColorTrc.SMPTE2084: "smpte2084", ColorTrc.ARIB_STD_B67: "arib-std-b67"}
"""FFmpeg's names of the transfer functions of high dynamic range, PQ and HLG."""
WIDE: dict[int, str] = {
    ColorPrimaries.BT2020: "bt2020",
    ColorPrimaries.SMPTE431: "smpte431",
    ColorPrimaries.SMPTE432: "smpte432",
}
"""FFmpeg's names of primaries with a wider gamut than sRGB."""


class UnknownColoursError(ValueError):
    """FFmpeg cannot convert the colours of a frame."""


def to_picture(frame: av.VideoFrame, aspect: Fraction) -> np.ndarray:
    """Return the picture of a frame, ``[height, width, 3]``, from 0 to 255.

    Args:
        frame: A decoded frame.
        aspect: Width of a pixel as a multiple of its height.

    Raises:
        UnknownColoursError: If its colours cannot be converted.
    """
    if frame.colorspace not in (UNSPECIFIED, *MATRICES):
        raise UnknownColoursError(f"has colours in a form that cannot be converted (matrix {frame.colorspace})")
    turn = _turn(frame)
    if frame.color_trc in HDR or frame.color_primaries in WIDE:
        frame = _to_srgb(frame)
    width = round(frame.width * aspect)
    picture = frame.reformat(
        width=width,
        format="rgb24",
        src_colorspace=matrix_of(frame),
        src_color_range=ColorRange.JPEG if frame.color_range == ColorRange.JPEG else None,
        interpolation=None if width == frame.width else Interpolation.BICUBIC,
        threads=1,  # starting more threads takes longer than they save
    )
    (plane,) = picture.planes
    rows = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
    return _upright(rows[:, : 3 * plane.width].reshape(plane.height, plane.width, 3), turn)


def is_hdr(frame: av.VideoFrame) -> bool:
    """Return whether a frame has a high dynamic range."""
    return frame.color_trc in HDR


def is_plain(frame: av.VideoFrame) -> bool:
    """Return whether a frame only needs a conversion to RGB by its stated matrix."""
    usual = BT601 if frame.colorspace == UNSPECIFIED else frame.colorspace
    standard = frame.color_trc not in HDR and frame.color_primaries not in WIDE
    return standard and usual in MATRICES and matrix_of(frame) == MATRICES[usual] and _turn(frame) is None


def matrix_of(frame: av.VideoFrame) -> int:
    """Return the matrix of a frame's colours; for an untagged frame, the one that players assume for its size."""
    if frame.colorspace == UNSPECIFIED:  # as clips.video_writing.is_high_definition, which is not imported
        return BT709 if frame.width >= 1280 or frame.height > 576 else BT601
    return MATRICES[frame.colorspace]


class Form(NamedTuple):
    """The properties of frames on which a chain of filters depends."""

    width: int
    height: int
    pixels: str
    matrix: int
    range: int
    primaries: int
    transfer: int

    @classmethod
    def of(cls, frame: av.VideoFrame) -> "Form":
        """Return a frame's form."""
        colours = frame.colorspace, frame.color_range, frame.color_primaries, frame.color_trc
        return cls(frame.width, frame.height, frame.format.name, *colours)


def _to_srgb(frame: av.VideoFrame) -> av.VideoFrame:
    """Map a high dynamic range to a standard one, and a wide gamut to sRGB."""
    graph = _srgb_graph(Form.of(frame))
    graph.push(frame)
    return graph.vpull()


@lru_cache(maxsize=1)  # FFmpeg computes a colour table, which takes seconds
def _srgb_graph(form: Form) -> Graph:
    """Return FFmpeg's ``scale`` filter with its colour mapping."""
    primaries, transfer = WIDE.get(form.primaries, "bt709"), HDR.get(form.transfer, "bt709")
    intent = "perceptual" if form.transfer in HDR else "relative_colorimetric"  # perceptual compresses brightness
    given = f"in_primaries={primaries}:in_transfer={transfer}"
    if form.matrix == UNSPECIFIED and form.pixels.startswith("yuv"):
        given += f":in_color_matrix={'bt2020' if primaries == 'bt2020' else 'bt709'}"
    mapping = f"{given}:out_primaries=bt709:out_transfer=bt709:intent={intent}"
    return _graph(form, ("scale", mapping), ("format", "rgb48"))


def _upright(picture: np.ndarray, turn: np.ndarray | None) -> np.ndarray:
    """Rotate and mirror a picture by its file's display matrix."""
    if turn is None:
        return picture
    (a, b), (c, d) = turn
    across, down = a, d
    if abs(b) + abs(c) > abs(a) + abs(d):
        picture, across, down = picture.swapaxes(0, 1), c, b
    return picture[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1]


def _turn(frame: av.VideoFrame) -> np.ndarray | None:
    """Return the display matrix without its offset, ``[stored (across, down), shown (across, down)]``, if any."""
    side_data: Mapping[Any, Any] = frame.side_data
    stored = side_data.get(Type.DISPLAYMATRIX)
    return None if stored is None else np.frombuffer(bytes(stored), np.int32).reshape(3, 3)[:2, :2].astype(float)


def deinterlaced(frames: Iterator[tuple[int, av.VideoFrame]]) -> Iterator[tuple[int, av.VideoFrame]]:
    """Yield numbered frames, deinterlaced by FFmpeg's ``bwdif`` from the first interlaced frame on."""
    graph, numbers = None, deque[int]()
    for number, frame in frames:
        if graph is None and not frame.interlaced_frame:
            yield number, frame
            continue
        if graph is None:
            graph = _graph(Form.of(frame), ("bwdif", "mode=send_frame:deint=interlaced"))
        numbers.append(number)
        frame.pts = number
        graph.push(frame)
        yield from _pulled(graph, numbers)
    if graph is not None:
        graph.push(None)
        yield from _pulled(graph, numbers)


def _pulled(graph: Graph, numbers: deque[int]) -> Iterator[tuple[int, av.VideoFrame]]:
    while numbers:
        try:
            frame = graph.vpull()
        except (BlockingIOError, EOFError):
            return
        yield numbers.popleft(), frame


def _graph(form: Form, *filters: tuple[str, str]) -> Graph:
    """Return a chain of filters for frames of one form."""
    graph = Graph()
    colours = f"colorspace={form.matrix}:range={form.range}"
    given = f"video_size={form.width}x{form.height}:pix_fmt={form.pixels}:time_base=1/1:{colours}"
    nodes = [graph.add(*each) for each in (("buffer", given), *filters, ("buffersink", ""))]
    graph.link_nodes(*nodes).configure()
    return graph
