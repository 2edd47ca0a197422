"""What the packets of a video file say of its frames, without decoding them."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from statistics import median
from typing import Any

import av

RESTART = 0.5
"""Seconds by which the time of decoding must go back for times to start again; a little disorder is common."""
PROGRESSIVE = 1
"""FFmpeg's number for frames that are stored whole; larger ones are orders of fields, 0 is unknown."""


@dataclass
class Scan:
    """What the packets of a video stream say, in the order in which they are stored.

    Attributes:
        form: Name of the container's format.
        base: Seconds of a unit of time.
        rate: Frames a second that the container states, if it does.
        num_declared: How many frames the container states, or 0.
        duration: How many units of time the stream is stated to last, if it is.
        aspect: Width of a pixel as a multiple of its height.
        interlaced: Whether frames are stored as two fields.
        stamps: When each frame is shown, in units of time.
        durations: How long each frame lasts, in units of time, 0 if that is unknown.
        keys: Times of the key frames.
        num_packets: How many there are, those that show nothing included.
        restarts: Whether times start again, as in a file that was joined of several.
        reordered: Whether frames are stored in another order than shown, so that durations may be those of others.
        trimmed: Whether the file tells players to leave frames out, which its duration counts.
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
        """When each frame is shown, in units of time; ``None`` if that is unknown of any frame."""
        known = [stamp for stamp in self.stamps if stamp is not None]
        return known if len(known) == len(self.stamps) else None

    @property
    def timed(self) -> bool:
        """Whether it is known when each frame is shown."""
        return self.known_stamps is not None

    @property
    def distinct(self) -> bool:
        """Whether frames can be told by their times; those of an AVI are decoded later than it says."""
        return self.timed and len(set(self.stamps)) == len(self.stamps) and self.form != "avi"

    def times(self) -> list[float]:
        """Return when each frame is shown, in seconds since the first one."""
        stamps = self.known_stamps
        if stamps is None:
            assert self.rate  # such a file is refused without one
            return [float(number / self.rate) for number in range(len(self.stamps))]
        ordered = sorted(stamps)
        return [float((stamp - ordered[0]) * self.base) for stamp in ordered]

    def gaps(self) -> list[float]:
        """Return the seconds between frames; of a single frame, those that it is shown."""
        return [b - a for a, b in pairwise(self.times())] or [float(1 / self.rate) if self.rate else 1.0]

    def last_frame(self) -> float:
        """Return how many seconds the last frame is shown; as long as most, where the file does not say."""
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
    """Read through the packets of a file."""
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
        stamp = packet.dts if found.form == "avi" else packet.pts  # which an AVI does not have
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
        # What comes before the first key frame of a stream that was cut cannot be decoded, and is not shown.
        kept = [number for number, stamp in enumerate(stamps) if stamp >= min(found.keys)]
        found.stamps, found.durations = [found.stamps[n] for n in kept], [found.durations[n] for n in kept]
    if found.form == "avi" and stamps:
        found.num_packets = max(stamps) + 1  # frames that were skipped while recording are counted, not stored
    return found


def _is_hidden(packet: "av.Packet[Any]", stream: av.VideoStream) -> bool:
    """Return whether a packet holds a frame that others refer to and that is never shown, as VP8 has them."""
    return stream.codec_context.name == "vp8" and not bytes(packet)[0] & 0x10
