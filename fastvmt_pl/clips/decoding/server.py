"""Answer requests for frames; a request is a line of JSON."""

import json
import mmap
import os
import signal
import socket
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from math import prod
from pathlib import Path
from threading import Timer

import numpy as np

from .video_file import DecodingError, VideoFile

IDLE_SECONDS = 30.0
"""Seconds that the process waits for another request before it ends."""
QUEUED = 4
"""Largest number of decoded frames that wait for conversion; each takes memory."""


class Line:
    """The connection to the requesting process: a message is a line of JSON, and an empty message reports progress."""

    def __init__(self) -> None:
        self.stream = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)  # output of libraries must not mix with messages
        self.written = 0.0

    def send(self, **message: object) -> None:
        """Send a message."""
        self.stream.write(json.dumps(message).encode() + b"\n")
        self.stream.flush()
        self.written = time.monotonic()

    def alive(self) -> None:
        """Report progress, at most a few times a second."""
        if time.monotonic() > self.written + 0.2:
            self.send()


class Memory:
    """Pictures in memory that another process can map too; on Linux, without a file.

    A pipe is slower than a decoder, and POSIX shared memory is limited to 64 MB in most containers.

    Args:
        num_pictures: Number of pictures.
    """

    def __init__(self, num_pictures: int) -> None:
        self.num_pictures = num_pictures
        self.shape: tuple[int, ...] = ()

    def fill(self, place: int, make: Callable[[], np.ndarray]) -> None:
        """Make a picture and copy it to its place.

        Raises:
            DecodingError: If its size differs from the first picture's.
        """
        picture = make()
        if not self.shape:
            self._allocate((self.num_pictures, *picture.shape))
        if picture.shape != self.shape[1:]:
            raise DecodingError(f"changes its size at requested picture {place}; convert it to one size")
        np.ndarray(self.shape, np.uint8, self.content)[place] = picture

    def _allocate(self, shape: tuple[int, ...]) -> None:
        try:
            with ExitStack() as stack:
                self.descriptor = self._create()
                stack.callback(os.close, self.descriptor)
                os.ftruncate(self.descriptor, prod(shape))
                self.content = mmap.mmap(self.descriptor, prod(shape))
                stack.pop_all()
        except OSError as error:
            raise DecodingError(f"does not fit into memory ({error}); use fewer frames") from error
        self.shape = shape

    @staticmethod
    def _create() -> int:
        if hasattr(os, "memfd_create"):
            return os.memfd_create("pictures")
        with tempfile.TemporaryFile() as file:
            return os.dup(file.fileno())

    def hand_over(self, channel: socket.socket) -> None:
        """Send the memory to another process."""
        socket.send_fds(channel, [b"."], [self.descriptor])

    def close(self) -> None:
        """Close this process's view of the memory."""
        if self.shape:
            self.content.close()
            os.close(self.descriptor)


def send_pictures(line: Line, channel: socket.socket, video: VideoFile, indices: list[int], decoder: str) -> None:
    """Decode frames, convert them to pictures in another thread, and send them."""
    tasks = deque[Future[None]]()
    with closing(Memory(len(indices))) as memory, ThreadPoolExecutor(1) as painter:
        for place, make in video.pictures(indices, decoder):
            tasks.append(painter.submit(memory.fill, place, make))
            if len(tasks) > QUEUED:
                tasks.popleft().result()
        for task in tasks:
            task.result()
        memory.hand_over(channel)
        line.send(shape=memory.shape, notes=video.notes)


def main() -> None:
    """Answer requests until there are no more.

    A request has the ``path`` of a file, the ``indices`` of frames and the ``decoder``. Without indices, the answer
    holds the times of all frames. The first argument of the process is the descriptor of a socket through which
    pictures are sent.
    """
    line, channel, video = Line(), socket.socket(fileno=int(sys.argv[1])), None
    for name in (
        "SIGINT",
        "SIGTERM",
        "SIGUSR1",
    ):  # schedulers send them to all processes; the requester decides
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    with suppress(OSError):  # if memory runs out, Linux ends this process rather than the requesting one
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
                video = VideoFile(path, line.alive)
            if indices:
                send_pictures(line, channel, video, indices, request["decoder"])
            else:
                line.send(times=video.times, end=video.end)
        except DecodingError as error:
            line.send(error=str(error))
