"""A video file: its frames and the times at which they are shown.

A frame counts as decoded if FFmpeg returns it at its own time and does not mark it as corrupt.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np

from .matroska import stated_size
from .picture import UnknownColoursError, deinterlaced, is_hdr, is_plain, to_picture
from .scan import Scan, scan

try:
    import decord
except ImportError:  # no wheel for this platform, see pyproject.toml
    decord = None


NO_VIDEO = ("concat", "dash", "hls", "image2", "imf", "tty")
"""Formats that FFmpeg opens but that are no videos: lists of files, patterns of file names, and text."""


class DecodingError(ValueError):
    """A file cannot be decoded; the message follows the file's name."""


class VideoFile:
    """A video file. All its packets are read once, without decoding.

    Args:
        path: The file.
        alive: Called on every bit of progress.

    Attributes:
        times: Time at which each frame is shown, in seconds since the first, ascending.
        end: Time at which the last frame disappears, in seconds.
        notes: Differences between pictures and stored frames that a user should know.

    Raises:
        DecodingError: If it is not a video, or not complete.
    """

    def __init__(self, path: str, alive: Callable[[], None] = lambda: None) -> None:
        self.path, self.alive, self.notes = path, alive, list[str]()
        with self._open() as (container, stream):
            found = scan(container, stream, self._packets(container))
        self._check_whole(found)
        self.aspect, self.interlaced = found.aspect, found.interlaced
        self.times, self.num_frames = found.times(), len(found.stamps)
        self.end = self.times[-1] + found.last_frame()
        # The decoder returns frames in the order of their times.
        self.stamps = sorted(found.known_stamps) if found.known_stamps and found.distinct else None
        # Only these have a reliable index of key frames; other files are decoded from their beginning.
        self.indexed, self.keys = False, [0]
        if self.stamps is not None and found.form.startswith(("mov", "matroska")):
            self.indexed, self.keys = True, [bisect_left(self.stamps, key) for key in sorted(found.keys)]

    def _check_whole(self, found: Scan) -> None:
        """Raise :class:`DecodingError` if a file is not complete, or the times of its frames are unknown."""
        num_frames, declared = len(found.stamps), found.num_declared
        if found.num_packets < declared and self._count_hidden() < declared:
            raise DecodingError(f"has {num_frames} of {declared} frames; it was cut short, get it again")
        if not num_frames:
            raise DecodingError("has no frames; it was cut short, get it again")
        if found.restarts:
            raise DecodingError("has times that start again, as of files that were joined; convert it to mp4")
        if not found.timed and not found.rate:
            raise DecodingError("does not say when its frames are shown; convert it to mp4")
        size, stated = Path(self.path).stat().st_size, stated_size(Path(self.path)) if "matroska" in found.form else 0
        if size < stated:  # Matroska does not state the number of frames
            raise DecodingError(f"ends after {size} of {stated} bytes; it was cut short, get it again")

    def pictures(self, indices: Sequence[int], decoder: str) -> Iterator[tuple[int, Callable[[], np.ndarray]]]:
        """Yield positions in ``indices``, each with a function that returns the picture; it may run in another thread.

        Args:
            indices: Numbers of frames, ascending.
            decoder: ``pyav``, or ``decord``, which makes pictures of frames that PyAV has checked.

        Raises:
            DecodingError: If one of the frames, or a frame that it may depend on, was not decoded.
        """
        first, last = indices[0], indices[-1]
        if decoder == "decord":
            yield from self._pictures_by_decord(indices)
            return
        if self.interlaced:  # deinterlacing uses the neighbouring frames
            first, last = max(0, first - 1), min(self.num_frames - 1, last + 1)
        places = {index: place for place, index in enumerate(indices)}
        for number, frame in deinterlaced(self.frames(first, last)):
            if number in places:
                self._note(frame)
                yield places[number], partial(self._picture, frame)

    def _picture(self, frame: av.VideoFrame) -> np.ndarray:
        try:
            return to_picture(frame, self.aspect)
        except UnknownColoursError as error:
            raise DecodingError(f"{error}; convert it to an mp4 with standard colours") from error

    def frames(self, first: int, last: int) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yield numbers and frames from the first to the last, without gaps.

        Raises:
            DecodingError: If one of the frames, or a frame that it may depend on, was not decoded.
        """
        key = max((key for key in self.keys if key <= first), default=0)
        try:
            for number, frame in self._frames_from(key, last):
                if number >= first:
                    yield number, frame
                    first = number + 1
        except DecodingError:
            if key == 0:
                raise
            # With intra refresh, a picture is not complete at the key frame that the file states.
            yield from (each for each in self._frames_from(0, last) if each[0] >= first)

    def _frames_from(self, key: int, last: int) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yield numbers and frames from a key frame to the last."""
        number = key
        with self._open() as (container, stream):
            stream.thread_type, stream.codec_context.thread_count = "AUTO", 2
            if number and self.stamps:
                container.seek(self.stamps[number], stream=stream)
            for frame in container.decode(stream):
                self.alive()
                if self.stamps and frame.pts is not None and frame.pts < self.stamps[number]:
                    continue  # before the key frame
                if frame.is_corrupt or (self.stamps and frame.pts != self.stamps[number]):
                    raise DecodingError(f"is damaged at frame {number}; get it again, or choose an interval without it")
                yield number, frame
                number += 1
                if number > last:
                    return
        raise DecodingError(f"ends after {number} of {self.num_frames} frames; it was cut short, get it again")

    def _pictures_by_decord(self, indices: Sequence[int]) -> Iterator[tuple[int, Callable[[], np.ndarray]]]:
        reader = self._decord()
        for _, frame in self.frames(indices[0], indices[-1]):
            if self.interlaced or self.aspect != 1 or not is_plain(frame):
                raise DecodingError("is not shown as it is stored, which decord ignores; use the decoder pyav")
        for place, index in enumerate(indices):
            self.alive()
            yield place, partial(_picture_by_decord, reader, index)

    def _decord(self) -> Any:
        """Return the file open in decord."""
        if decord is None:
            raise DecodingError("cannot be read by decord, which is not installed; use the decoder pyav")
        decord.logging.set_level(decord.logging.QUIET)
        try:
            # The smallest share of frames that decord may replace by neighbours; 0 would allow any share.
            reader = decord.VideoReader(self.path, num_threads=2, fault_tol="0.0000001")
        except (RuntimeError, decord.DECORDError) as error:
            raise DecodingError("cannot be read by decord; use the decoder pyav") from error
        # decord counts key frames in stored order, which differs where later frames are shown earlier.
        if not self.indexed or len(reader) != self.num_frames or reader.get_key_indices() != self.keys:
            raise DecodingError("has frames that decord does not find; use the decoder pyav")
        return reader

    def _note(self, frame: av.VideoFrame) -> None:
        """Record how a frame's picture differs from the stored frame."""
        found = {
            "has a high dynamic range; it is mapped to a standard one": is_hdr(frame),
            "is interlaced; its fields are joined to whole frames": self.interlaced or frame.interlaced_frame,
        }
        self.notes += [note for note, holds in found.items() if holds and note not in self.notes]

    def _count_hidden(self) -> int:
        """Count packets, including those that the file tells players to skip, as in clips trimmed on phones."""
        with self._open(ignore_editlist="1") as (container, stream):
            packets = self._packets(container)
            return sum(packet.stream_index == stream.index and not packet.is_discard for packet in packets)

    def _packets(self, container: av.container.InputContainer) -> Iterator["av.Packet[Any]"]:
        for packet in container.demux():
            self.alive()
            if packet.size:
                yield packet

    @contextmanager
    def _open(self, **options: str) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
        options["protocol_whitelist"] = "file"  # a playlist must not open other addresses
        try:
            with av.open(self.path, options=options, metadata_errors="replace") as container:
                if container.format.name in NO_VIDEO:
                    raise DecodingError(f"is no video file but {container.format.long_name}; give a video file")
                stream = container.streams.best("video")
                if not isinstance(stream, av.VideoStream):
                    raise DecodingError("has no video stream; give a video file")
                if stream.codec_context is None:
                    raise DecodingError("is in a format that FFmpeg cannot decode; convert it to mp4, or get it again")
                yield container, stream
        except DecodingError:
            raise
        except (av.FFmpegError, ValueError, MemoryError) as error:
            raise DecodingError(f"cannot be decoded ({error}); is it a whole video file?") from error


def _picture_by_decord(reader: Any, index: int) -> np.ndarray:
    try:
        picture: np.ndarray = reader.get_batch([index]).asnumpy()[0]
    except (decord.DECORDError, decord.DECORDLimitReachedError) as error:
        raise DecodingError(f"cannot be decoded by decord ({error}); use the decoder pyav") from error
    return picture
