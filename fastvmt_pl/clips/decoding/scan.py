"""Information about the frames of a video file, read from its packets without decoding."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from statistics import median
from typing import Any

import av

RESTART = 0.5
"""Seconds by which decoding times must jump back to count as a restart; smaller disorder is common."""
PROGRESSIVE = 1
"""FFmpeg's field order of progressive frames; larger numbers are orders of fields, 0 is unknown."""


@dataclass
class Scan:
    """The packets of a video stream, in stored order.

    Attributes:
        form: Name of the container's format.
        base: The time base, in seconds.
        rate: Frames per second, if the container states it.
        num_declared: Number of frames that the container states, or 0.
        duration: Duration that the container states, in time bases, if any.
        aspect: Width of a pixel as a multiple of its height.
        interlaced: Whether frames are stored as two fields.
        stamps: Time at which each frame is shown, in time bases; ``None`` if unknown.
        durations: How long each frame is shown, in time bases; 0 if unknown.
        keys: Times of the key frames, in time bases.
        num_packets: Number of packets, including those that show nothing.
        restarts: Whether times start again, as in a concatenation of several files.
        reordered: Whether the stored order is not the shown order; durations may then belong to other frames.
        trimmed: Whether the file tells players to skip frames; its duration includes them.
    """

    form: str
    base: Fraction
    rate: Fraction | None
    num_declared: int
    duration: int | None
    aspect: Fraction
    interlaced: bool
    stamps: list[int | None] = field(default_factory=list)
    durations: list[int] = field(default_factory=list)
    keys: list[int] = field(default_factory=list)
    num_packets: int = 0
    restarts: bool = False
    reordered: bool = False
    trimmed: bool = False

    @property
    def known_stamps(self) -> list[int] | None:
        """Time at which each frame is shown, in time bases; ``None`` if any is unknown."""
        known = [stamp for stamp in self.stamps if stamp is not None]
        return known if len(known) == len(self.stamps) else None

    @property
    def timed(self) -> bool:
        """Whether the times of all frames are known."""
        return self.known_stamps is not None

    @property
    def distinct(self) -> bool:
        """Whether times identify frames; those of an AVI file differ from the decoded ones."""
        return self.timed and len(set(self.stamps)) == len(self.stamps) and self.form != "avi"

    def times(self) -> list[float]:
        """Return the time at which each frame is shown, in seconds since the first."""
        stamps = self.known_stamps
        if stamps is None:
            assert self.rate  # without a rate, such a file is refused
            return [float(number / self.rate) for number in range(len(self.stamps))]
        ordered = sorted(stamps)
        return [float((stamp - ordered[0]) * self.base) for stamp in ordered]

    def gaps(self) -> list[float]:
        """Return the seconds between frames; for a single frame, the time that it is shown."""
        return [b - a for a, b in pairwise(self.times())] or [float(1 / self.rate) if self.rate else 1.0]

    def last_frame(self) -> float:
        """Return the seconds that the last frame is shown; if the file does not say, as long as most frames."""
        known, stamps = 0.0, self.known_stamps
        if stamps is not None and not self.reordered:
            known = float(max(zip(stamps, self.durations, strict=True))[1] * self.base)
        elif stamps is not None and self.duration and not self.trimmed:
            known = float(self.duration * self.base) - self.times()[-1]
            # A fragmented file may state the duration of another part.
            longest = max(*self.gaps(), float(max(self.durations) * self.base))
            known = known if known < 1.5 * longest else 0.0
        return known if known > 0 else median(self.gaps())


def scan(container: av.container.InputContainer, stream: av.VideoStream, packets: Iterable["av.Packet[Any]"]) -> Scan:
    """Read all packets of a file."""
    assert stream.time_base is not None  # FFmpeg gives every stream one
    found = Scan(
        container.format.name,
        stream.time_base,
        stream.average_rate or stream.guessed_rate,
        stream.frames,
        stream.duration,
        stream.sample_aspect_ratio or Fraction(1),
        stream.codec_context.field_order > PROGRESSIVE,
    )
    decoded = None
    for packet in packets:
        if packet.is_discard:
            found.trimmed = True
            continue
        stamp = packet.dts if found.form == "avi" else packet.pts  # an AVI file has no pts
        if packet.stream_index == stream.index:
            found.num_packets += 1
            if packet.dts is not None:
                found.restarts |= decoded is not None and packet.dts * found.base < decoded - RESTART
                decoded = packet.dts * found.base
            found.reordered |= packet.dts != stamp
            if not _is_hidden(packet, stream):
                found.stamps.append(stamp)
                found.durations.append(packet.duration or 0)
                found.keys += [stamp] if packet.is_keyframe and stamp is not None else []
    stamps = found.known_stamps
    if stamps is not None and found.keys and not found.trimmed:
        # In a stream that was cut, frames before the first key frame cannot be decoded and are not shown.
        kept = [number for number, stamp in enumerate(stamps) if stamp >= min(found.keys)]
        found.stamps, found.durations = [found.stamps[n] for n in kept], [found.durations[n] for n in kept]
    if found.form == "avi" and stamps:
        found.num_packets = max(stamps) + 1  # frames dropped while recording are counted but not stored
    return found


def _is_hidden(packet: "av.Packet[Any]", stream: av.VideoStream) -> bool:
    """Return whether a packet holds a frame that is never shown but only referred to, as in VP8."""
    return stream.codec_context.name == "vp8" and not bytes(packet)[0] & 0x10
