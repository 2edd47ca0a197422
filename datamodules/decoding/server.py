"""Answer requests for frames, one line of JSON each."""

import json
import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from threading import Timer

import numpy as np

from .video_file import DecodingError, VideoFile

IDLE_SECONDS = 30.0
"""How long the process waits for another request before it ends."""


class Line:
    """The line to the process that asks: a line of JSON a message, then the bytes of a picture if it has a shape.

    An empty message reports progress.
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
        """Report progress, at most a few times a second."""
        if time.monotonic() > self.written + 0.2:
            self.send()


def main() -> None:
    """Answer requests until there are no more.

    A request has the ``path`` of a file, the ``indices`` of the frames to send and the ``decoder`` that makes their
    pictures. Without indices, the answer says when each frame is shown.
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
                video = VideoFile(path, line.alive)
            if indices:
                for place, picture in video.pictures(indices, request["decoder"]):
                    line.send(picture, place=place)
                line.send(notes=video.notes)
            else:
                line.send(times=video.times, end=video.end)
        except DecodingError as error:
            line.send(error=str(error))
