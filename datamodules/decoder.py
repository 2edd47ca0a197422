"""Decode video files in a process of its own: a script that ``decoder_process.py`` runs.

It imports nothing of the package, whose imports take seconds.

A frame is decoded if FFmpeg gives it at its own time and does not mark it as patched up. PyAV tells so; decord does
not, and where it misses a frame it hands over a neighbour. So PyAV vouches for frames before decord makes pictures.
"""

import json
import os
import signal
import sys
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Timer
from typing import Any

import av
import numpy as np

try:
    import decord
except ImportError:  # no wheel for this platform, see pyproject.toml
    decord = None

IDLE_SECONDS = 30.0
"""How long the process waits for another request before it ends."""


class DecodingError(ValueError):
    """A file cannot be decoded; the message goes on behind the file's name."""


class Video:
    """A video file, read through once without decoding, so that it is known which frames there are.

    Args:
        path: The file.
        alive: Called at every step forward.

    Raises:
        DecodingError: If it is no video, or has less than it says.
    """

    def __init__(self, path: str, alive: Callable[[], None] = lambda: None) -> None:
        self.path, self.alive = path, alive
        times, keys, end = [], [], 0.0
        with self._open() as (container, stream):
            declared, self.fps, form = max(1, stream.frames), float(stream.average_rate or 0), container.format.name
            stated = (container.duration or 0) / av.time_base
            for packet in self._packets(container):
                if packet.pts is not None:
                    end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
                if packet.stream_index == stream.index:
                    times.append(packet.pts)
                    if packet.is_keyframe:
                        keys.append(packet.pts)
        self.num_frames = len(times)
        if self.num_frames < declared and self._count_hidden() < declared:
            raise DecodingError(f"has {self.num_frames} of {declared} frames; it was cut short, get it again")
        if not self.fps > 0:
            raise DecodingError("states no frame rate; convert it to mp4 first")
        if "matroska" in form and end < stated - 2 / self.fps:  # it does not say how many frames it has
            raise DecodingError(f"ends after {end:.2f} of {stated:.2f} seconds; it was cut short, get it again")
        # Frames come in the order of their times, but for AVI, which stores none.
        known = None not in times and len(set(times)) == len(times) and form != "avi"
        self.times = sorted(times) if known else None
        # Only these have an index, by which a key frame is found for sure; others are decoded from their beginning.
        self.indexed = known and form.startswith(("mov", "matroska"))
        self.keys = [bisect_left(self.times, key) for key in sorted(keys)] if self.times and self.indexed else [0]

    def pictures(self, indices: Sequence[int]) -> Iterator[tuple[int, np.ndarray]]:
        """Yield pictures by their numbers, which ascend, each after its place in the list.

        Where decord fails on the way, PyAV begins again at the first.

        Raises:
            DecodingError: If one of them, or a frame that it may depend on, was not decoded.
        """
        reader = self._decord()
        if reader is not None:
            for _ in self._frames(indices[0], indices[-1]):
                pass
            try:
                for place, index in enumerate(indices):
                    yield place, reader.get_batch([index]).asnumpy()[0]
                return
            except decord.DECORDError:
                pass
        places, shape = {index: place for place, index in enumerate(indices)}, None
        for number, frame in self._frames(indices[0], indices[-1]):
            if number in places:
                picture = _upright(frame)
                if picture.shape != (shape := shape or picture.shape):
                    raise DecodingError(f"changes its size at frame {number}; convert it to one size")
                yield places[number], picture

    def _decord(self) -> Any:
        """Return the file open in decord, if it can read it and finds its frames."""
        if decord is None or not self.indexed:
            return None
        decord.logging.set_level(decord.logging.QUIET)
        try:
            # The smallest share of neighbours handed over for lost frames; 0 would allow any number.
            reader = decord.VideoReader(self.path, num_threads=2, fault_tol="0.0000001")
        except (RuntimeError, decord.DECORDError):
            return None
        # It counts key frames as they are stored: too early where frames that are shown before are stored behind.
        return reader if len(reader) == self.num_frames and reader.get_key_indices() == self.keys else None

    def _frames(self, first: int, last: int) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yield numbers and frames, from the key frame at or before the first to the last, none left out."""
        number = max((key for key in self.keys if key <= first), default=0)
        with self._open() as (container, stream):
            stream.thread_type, stream.codec_context.thread_count = "AUTO", 2
            if number and self.times:
                container.seek(self.times[number], stream=stream)
            for frame in container.decode(stream):
                self.alive()
                if self.times and frame.pts is not None and frame.pts < self.times[number]:
                    continue  # before the key frame
                if frame.is_corrupt or (self.times and frame.pts != self.times[number]):
                    raise DecodingError(f"is damaged at frame {number}; get it again, or choose an interval without it")
                yield number, frame
                number += 1
                if number > last:
                    return
        raise DecodingError(f"ends after {number} of {self.num_frames} frames; it was cut short, get it again")

    def _count_hidden(self) -> int:
        """Count packets with those that the file tells players to leave out, as clips trimmed on telephones do."""
        with self._open(ignore_editlist="1") as (container, stream):
            return sum(packet.stream_index == stream.index for packet in self._packets(container))

    def _packets(self, container: av.container.InputContainer) -> Iterator[av.Packet]:
        for packet in container.demux():
            self.alive()
            if packet.size and not packet.is_discard:
                yield packet

    @contextmanager
    def _open(self, **options: str) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
        try:
            with av.open(self.path, options=options, metadata_errors="replace") as container:
                stream = container.streams.best("video")
                if stream is None:
                    raise DecodingError("has no video stream; give a video file")
                if stream.codec_context is None:
                    raise DecodingError("is in a format that FFmpeg cannot decode; convert it to mp4, or get it again")
                yield container, stream
        except DecodingError:
            raise
        except (av.FFmpegError, ValueError, MemoryError) as error:
            raise DecodingError(f"cannot be decoded ({error}); is it a whole video file?") from error


def _upright(frame: av.VideoFrame) -> np.ndarray:
    """Return a frame's picture, turned as its file asks for; decord does so itself."""
    return np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90)


class Line:
    """The line to the process that asks: JSON, a line a message, behind it a picture's bytes if it has a shape.

    A message without content says that there is progress.
    """

    def __init__(self) -> None:
        self.stream = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)  # what a library prints is no message
        self.written = 0.0

    def send(self, picture: np.ndarray | None = None, **message: object) -> None:
        """Send a message, or a picture with its place."""
        shape = {} if picture is None else {"shape": picture.shape}
        self.stream.write(json.dumps(message | shape).encode() + b"\n")
        if picture is not None:
            self.stream.write(np.ascontiguousarray(picture).data)
        self.stream.flush()
        self.written = time.monotonic()

    def alive(self) -> None:
        """Say that there is progress, at most a few times a second."""
        if time.monotonic() > self.written + 0.2:
            self.send()


def main() -> None:
    """Answer requests until there are no more.

    A request is a line of JSON: ``path``, and ``indices`` of the frames to send, or none to be told what the file is.
    """
    line, video = Line(), None
    for name in ("SIGINT", "SIGTERM", "SIGUSR1"):  # schedulers send them to all processes; the one that asks decides
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    with suppress(OSError):  # where memory runs out, Linux is to end this process and not the one that asks
        Path("/proc/self/oom_score_adj").write_text("1000")
    line.send(ready=True)
    while True:
        idle = Timer(IDLE_SECONDS, os._exit, [0])
        idle.start()
        text = sys.stdin.buffer.readline()
        idle.cancel()
        if not text:
            return
        request = json.loads(text)
        path, indices = request["path"], request["indices"]
        try:
            if video is None or video.path != path or not indices:
                video = None
                video = Video(path, line.alive)
            for place, picture in video.pictures(indices) if indices else ():
                line.send(picture, place=place)
            line.send(num_frames=video.num_frames, fps=video.fps)
        except DecodingError as error:
            line.send(error=str(error))


if __name__ == "__main__":
    main()
