"""Make clips as people have them, read them, and print the right values beside those that were read.

Usage: ``python scripts/real_world_clips.py``
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.stream import VideoStream
from jsonargparse import auto_cli
from PIL import Image

from fastvmt_pl.clips import Clip, read_clip

MILLISECOND = Fraction(1, 1000)
HELD = [0, 100, 200, 300, 1300, 1400, 1500, 1600, 1700, 3700, 3800, 3900, 4000, 4100, 4200, 4300, 4400]
"""Milliseconds at which frames appear: ten a second, but for one that is held for a second and one for two."""
EVEN = [round(float(time)) for time in np.linspace(0, 4400, 9)]
CORNERS = {"top left": (0, 0), "top right": (0, -1), "bottom left": (-1, 0), "bottom right": (-1, -1)}
RGB = (200, 60, 20)
NITS = np.array([1.0, 20, 100, 203, 1000])


@dataclass(frozen=True)
class Case:
    """A clip whose right values are known.

    Attributes:
        subject: What is in question.
        name: What the clip is.
        make: Writes it into a folder, and returns its path.
        read: Returns what is read of it.
        right: What should be read.
        tolerance: How far numbers may be from that.
    """

    subject: str
    name: str
    make: Callable[[Path], Path]
    read: Callable[[Path], list[Any]]
    right: list[Any]
    tolerance: float = 0.0


@dataclass
class Writer:
    """Encodes frames.

    Args:
        name: File name.
        codec: FFmpeg's name of the encoder.
        options: The encoder's options.
        times: When each frame appears, in milliseconds; ``None`` is 8 a second.
        colours: Matrix, range, primaries and transfer function to name, by PyAV's attributes.
        prepare: Called with the stream before the first frame.
        container: The container's options.
        form: Pixel format.
        base: Seconds of a unit of time.
        tagged: Whether the colours are named in the file.
    """

    name: str
    codec: str = "libx264"
    options: dict[str, str] = field(default_factory=dict)
    times: Sequence[int] | None = None
    colours: dict[str, int] = field(default_factory=dict)
    prepare: Callable[[VideoStream], None] = lambda stream: None
    container: dict[str, str] = field(default_factory=dict)
    form: str = "yuv420p"
    base: Fraction = MILLISECOND
    tagged: bool = True

    def write(self, frames: Sequence[np.ndarray], folder: Path) -> Path:
        """Write frames, ``[height, width, 3]``, or planes of the pixel format."""
        with av.open(str(folder / self.name), "w", options=self.container) as container:
            stream = container.add_stream(self.codec, 8, options=self.options)
            stream.pix_fmt = self.form
            stream.height, stream.width = frames[0].shape[:2]
            stream.codec_context.time_base = self.base
            for name, value in self.colours.items() if self.tagged else ():
                setattr(stream.codec_context, name, value)
            self.prepare(stream)
            times = self.times or [125 * number for number in range(len(frames))]
            for time, frame in zip(times, frames, strict=True):
                encoded = self._frame(frame)
                encoded.pts, encoded.time_base = round(time / 1000 / self.base), self.base
                container.mux(stream.encode(encoded))
            container.mux(stream.encode(None))
        return folder / self.name

    def _frame(self, frame: np.ndarray) -> av.VideoFrame:
        """Return a frame in the pixel format, converted by the named matrix, else by that of BT.601."""
        if frame.dtype == np.uint16:  # brightness as it is coded, without colour
            made = av.VideoFrame(frame.shape[1], frame.shape[0], self.form)
            for plane, level in zip(made.planes, (frame, 512, 512), strict=True):
                values = np.full((plane.height, plane.line_size // 2), 512, np.uint16)
                values[:, : plane.width] = level
                plane.update(values.tobytes())
        else:
            made = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(
                format=self.form,
                dst_colorspace=self.colours.get("colorspace", 5),
                dst_color_range=self.colours.get("color_range"),
            )
        for name, value in self.colours.items():
            setattr(made, name, value if self.tagged else 2)
        return made


def numbered(count: int) -> list[np.ndarray]:
    """Return gray frames whose brightness tells their number."""
    return [np.full((64, 96, 3), 20 + 5 * number, np.uint8) for number in range(count)]


def numbers(clip: Clip) -> list[int]:
    """Return the numbers of frames."""
    return ((clip.frames.float().mean((1, 2, 3)) - 20) / 5).round().int().tolist()


def shown_at(times: Sequence[int], moments: Sequence[float]) -> list[int]:
    """Return the frames that a player shows at some moments, 50 ms after them to be clear of rounding."""
    return [max(number for number, time in enumerate(times) if time <= moment + 50) for moment in moments]


def cornered() -> list[np.ndarray]:
    """Return frames with one bright corner, the top left."""
    frame = np.full((64, 96, 3), 20, np.uint8)
    frame[:24, :24] = 240
    return [frame] * 5


def corner(clip: Clip) -> list[Any]:
    """Return height, width, and which corner is bright."""
    picture = clip.frames[2].float().mean(-1)
    found = max(CORNERS, key=lambda name: float(picture[CORNERS[name]]))
    return [*picture.shape, found]


def turned(name: str, degrees: int, hflip: bool, vflip: bool) -> Callable[[Path], Path]:
    """Return what writes a clip that is shown turned counter-clockwise, then mirrored."""
    return partial(
        Writer(name, prepare=lambda stream: stream.set_display_rotation(degrees, hflip, vflip)).write, cornered()
    )


def turns() -> list[Case]:
    """Return the eight orientations."""
    cases = []
    for degrees, places in {
        0: ("top left", "top right", "bottom left"),
        90: ("bottom left", "bottom right", "top left"),
        180: ("bottom right", "bottom left", "top right"),
        270: ("top right", "top left", "bottom right"),
    }.items():
        for flips, place in zip(((False, False), (True, False), (False, True)), places, strict=True):
            for ending in ("mp4", "mkv"):
                size = [96, 64] if degrees % 180 else [64, 96]
                how = f"turned by {degrees}" + (", mirrored" if flips[0] else ", upside down" if flips[1] else "")
                make = turned(f"turned.{ending}", degrees, *flips)
                read = partial(_read, corner, num_frames=5)
                cases.append(Case("bright corner", f"{ending}, {how}", make, read, [*size, place]))
    return cases


def patch(clip: Clip) -> list[int]:
    """Return the colour of a clip's middle."""
    height, width = clip.frames.shape[1:3]
    return clip.frames[2, height // 2, width // 2].tolist()


def coloured(
    what: str, size: tuple[int, int] = (96, 128), colour: tuple[int, ...] = RGB, tagged: bool = True, **colours: int
) -> Case:
    """Return a clip of one colour."""
    frame = np.broadcast_to(np.array(colour, np.uint8), (*size, 3))
    make = partial(Writer("patch.mp4", colours=colours, tagged=tagged).write, [np.ascontiguousarray(frame)] * 5)
    return Case("colour", what, make, partial(_read, patch, num_frames=5), list(colour), 3)


def perceptual_quantizer(nits: np.ndarray) -> np.ndarray:
    """Return the code of a brightness, 0 to 1 (SMPTE ST 2084)."""
    raised = (nits / 10000) ** (2610 / 16384)
    return ((3424 / 4096 + 2413 / 128 * raised) / (1 + 2392 / 128 * raised)) ** (2523 / 32)


def hybrid_log_gamma(scene: np.ndarray) -> np.ndarray:
    """Return the code of a share of the full brightness of a scene, 0 to 1 (ARIB STD-B67)."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    return np.where(scene <= 1 / 12, np.sqrt(3 * scene), a * np.log(np.maximum(12 * scene - b, 1e-9)) + c)


def tone_mapped(nits: np.ndarray, peak: float) -> list[int]:
    """Return 8-bit codes of brightnesses, as ``zscale=t=linear:npl=100,tonemap=hable,zscale=t=bt709`` makes them."""

    def curve(x: np.ndarray) -> np.ndarray:
        return (x * (0.15 * x + 0.05) + 0.004) / (x * (0.15 * x + 0.5) + 0.06) - 0.2 / 3

    linear = curve(nits / 100) / curve(np.array(peak / 100))
    coded = np.where(linear < 0.018, 4.5 * linear, 1.099 * np.maximum(linear, 0.018) ** 0.45 - 0.099)
    return (255 * coded).round().astype(int).tolist()


def bars(codes: np.ndarray) -> list[np.ndarray]:
    """Return frames of 10-bit codes, a bar of 64 pixels each."""
    row = np.repeat((64 + 876 * codes).round(), 64).astype(np.uint16)
    return [np.broadcast_to(row, (64, len(row))).copy()] * 5


def bar_levels(clip: Clip) -> list[int]:
    """Return the brightness of bars of 64 pixels, after a check that they are gray."""
    picture = clip.frames[2]
    levels = (picture[32, 32::64] if picture.shape[0] == 64 else picture[32::64, 32].flip(0)).int()
    assert (levels.amax(-1) - levels.amin(-1)).max() <= 2
    return levels[:, 1].tolist()


def high_range(what: str, codes: np.ndarray, transfer: int, right: list[int], tolerance: int, degrees: int = 0) -> Case:
    """Return a clip of gray bars of a high dynamic range, in BT.2020, shown turned counter-clockwise."""

    def prepare(stream: VideoStream) -> None:
        stream.set_display_rotation(degrees)

    colours = {"color_primaries": 9, "color_trc": transfer, "colorspace": 9, "color_range": 1}
    options = {"crf": "1", "x265-params": "log-level=error"}
    writer = Writer("bars.mp4", "libx265", options, colours=colours, form="yuv420p10le", prepare=prepare)
    make = partial(writer.write, bars(codes))
    return Case("brightness", what, make, partial(_read, bar_levels, num_frames=5), right, tolerance)


def fields() -> list[np.ndarray]:
    """Return frames of two fields, the upper half a frame earlier than the lower, of a bar that moves to the right."""
    frames = []
    for number in range(9):
        frame = np.full((96, 128, 3), 30, np.uint8)
        for field_number in range(2):
            left = 8 * number + 4 * field_number
            frame[field_number::2, left : left + 32] = 220
        frames.append(frame)
    return frames


def combs(clip: Clip) -> list[float]:
    """Return how much neighbouring rows differ more than those of the same field."""
    rows = clip.frames[4].float().mean(-1)
    across, within = (rows[1:] - rows[:-1]).abs().mean(), (rows[2:] - rows[:-2]).abs().mean()
    return [round(max(0.0, float(across - within)), 1)]


def hidden_frames(folder: Path) -> Path:
    """Write VP8 in which a frame that is only referred to stands before each fourth one."""
    source = Writer("shown.webm", "libvpx", {"g": "1", "b": "2M"}).write(numbered(17), folder)
    with av.open(str(source)) as shown, av.open(str(folder / "hidden.webm"), "w") as container:
        stream = container.add_stream_from_template(shown.streams.video[0])
        for number, packet in enumerate(shown.demux(video=0)):
            if packet.size:
                content, pts = bytearray(bytes(packet)), packet.pts
                if number % 4 == 3:
                    copy = bytearray(content)
                    copy[0] &= ~0x10
                    _mux(container, stream, bytes(copy), pts - 1, keyframe=False)
                _mux(container, stream, bytes(content), pts, keyframe=packet.is_keyframe)
    return folder / "hidden.webm"


def _mux(container: Any, stream: Any, content: bytes, pts: int, keyframe: bool) -> None:
    packet = av.Packet(content)
    packet.stream, packet.pts, packet.dts, packet.time_base = stream, pts, pts, MILLISECOND
    packet.is_keyframe = keyframe
    container.mux(packet)


def two_streams(folder: Path) -> Path:
    """Write an mp4 whose second video stream is a small black one."""
    with av.open(str(folder / "two.mp4"), "w") as container:
        streams = [container.add_stream("libx264", 8) for _ in range(2)]
        for stream, (height, width) in zip(streams, ((64, 96), (32, 48)), strict=True):
            stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for frame in numbered(17):
            for stream, picture in zip(streams, (frame, np.zeros((32, 48, 3), np.uint8)), strict=True):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        for stream in streams:
            container.mux(stream.encode(None))
    return folder / "two.mp4"


def pictures(folder: Path) -> Path:
    """Write numbered pictures, as DAVIS has them."""
    (folder / "pictures").mkdir()
    for number, frame in enumerate(numbered(17)):
        Image.fromarray(frame).save(folder / "pictures" / f"{number:05d}.jpg", quality=95)
    return folder / "pictures"


def _read(measure: Callable[[Clip], list[Any]], path: Path, num_frames: int, **options: Any) -> list[Any]:
    return measure(read_clip(path, num_frames, **options))


def _when(clip: Clip) -> list[Any]:
    return [*numbers(clip), round(clip.fps, 2)]


def _held(name: str, **options: Any) -> Callable[[Path], Path]:
    return partial(Writer(name, times=HELD, **options).write, numbered(17))


def _aspect(name: str, aspect: Fraction, width: int) -> Case:
    def prepare(stream: VideoStream) -> None:
        stream.codec_context.sample_aspect_ratio = aspect

    what = f"{name}, pixels of {aspect.numerator} to {aspect.denominator}"
    make = partial(Writer(f"wide.{name}", prepare=prepare).write, cornered())
    return Case("size, bright corner", what, make, partial(_read, corner, num_frames=5), [64, width, "top left"])


def timed(what: str, make: Callable[[Path], Path], right: list[Any], **options: Any) -> Case:
    """Return a clip of which frames are in question, and how many are shown a second."""
    return Case("frames, rate", what, make, partial(_read, _when, **options), right)


VP8 = {"codec": "libvpx", "options": {"b": "300k"}}
SPREAD = [*shown_at(HELD, EVEN), 1.82]
PART = [*shown_at(HELD, [1000, 1250, 1500, 1750, 2000]), 4.0]
ALL = [*range(17), 8.0]
SKIPPED = Writer("skip.avi", "mpeg4", times=[125 * (n + 2 * (n > 5)) for n in range(17)], base=Fraction(1, 8))
REFRESHED = Writer("refresh.mp4", options={"x264-params": "intra-refresh=1:keyint=5:bframes=0"})
FIELDS = Writer("fields.mp4", options={"x264-params": "tff=1", "flags": "+ildct+ilme", "crf": "8"})
WHITES = hybrid_log_gamma(np.array([0.0, 0.26496, 1.0]))
CASES = [
    timed("mp4, frames held for 1 s and 2 s", _held("held.mp4"), SPREAD, num_frames=9),
    timed("mkv, the same", _held("held.mkv"), SPREAD, num_frames=9),
    timed("webm, the same", _held("held.webm", **VP8), SPREAD, num_frames=9),
    timed("gif, the same", _held("held.gif", codec="gif", form="rgb8", base=Fraction(1, 100)), SPREAD, num_frames=9),
    timed("mp4, the same from 1.0 to 2.1 s", _held("held.mp4"), PART, num_frames=5, start=1.0, end=2.1),
    timed("webm of a browser's recorder", _held("live.webm", **VP8, container={"live": "1"}), SPREAD, num_frames=9),
    timed(
        "avi with skipped frames", partial(SKIPPED.write, numbered(17)), [0, 3, 5, 7, 10, 13, 16, 2.67], num_frames=7
    ),
    timed("webm with frames that are only referred to", hidden_frames, ALL, num_frames=17),
    timed(
        "mp4 with intra refresh, from 1.5 s",
        partial(REFRESHED.write, numbered(17)),
        [12, 13, 14, 15, 16, 8.0],
        num_frames=5,
        start=1.5,
    ),
    timed("mp4 with two video streams", two_streams, ALL, num_frames=17),
    timed("folder of numbered pictures", pictures, ALL, num_frames=17, fps=8.0),
    _aspect("mp4", Fraction(3, 2), 144),
    _aspect("mkv", Fraction(8, 9), 85),
    *turns(),
    coloured("high definition without tags", (720, 1280), tagged=False, colorspace=1),
    coloured("standard definition without tags", tagged=False, colorspace=5),
    coloured("BT.709 by its tag", colorspace=1),
    coloured("full range by its tag", colorspace=1, color_range=2),
    coloured("gray in Display P3", colour=(128, 128, 128), colorspace=1, color_primaries=12, color_trc=1),
    high_range("PQ of 1, 20, 100, 203 and 1000 cd/m²", perceptual_quantizer(NITS), 16, tone_mapped(NITS, 10000), 20),
    high_range(
        "HLG turned by 90, as of a phone", WHITES, 18, tone_mapped(np.array([0.0, 203, 1000]), 1000), 15, degrees=90
    ),
    high_range("HLG, black, reference white and peak", WHITES, 18, tone_mapped(np.array([0.0, 203, 1000]), 1000), 15),
    Case("combs", "interlaced", partial(FIELDS.write, fields()), partial(_read, combs, num_frames=9), [0.0], 3.0),
]


def is_right(case: Case, found: list[Any]) -> bool:
    """Return whether what was read is right."""
    pairs = zip(case.right, found, strict=True)
    return all(a == b if isinstance(a, str) else abs(a - b) <= case.tolerance for a, b in pairs)


def main() -> None:
    """Print a row a clip."""
    print("| clip | in question | right | read | |\n| --- | --- | --- | --- | --- |")
    for case in CASES:
        with tempfile.TemporaryDirectory() as folder:
            found = case.read(case.make(Path(folder)))
        right, read = (" ".join(map(str, values)) for values in (case.right, found))
        print(f"| {case.name} | {case.subject} | {right} | {read} | {'ok' if is_right(case, found) else 'wrong'} |")


if __name__ == "__main__":
    auto_cli(main)
