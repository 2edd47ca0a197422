"""A process that decodes video files; a damaged file can hang or crash it without harm to this process."""

import json
import mmap
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import TIMEOUT_MAX, Event, Timer
from typing import Any

import numpy as np

from fastvmt_pl.errors import UserError

SCRIPT = Path(__file__).parent / "decoding" / "__main__.py"
TIMEOUT = "FASTVMT_DECODING_TIMEOUT"
"""Environment variable with the seconds without progress after which decoding is stopped."""
DEFAULT_TIMEOUT = 120.0
"""Enough for a slow network drive, and for 250 frames between two key frames of a large video."""


class DecoderProcess:
    """A process that runs the package ``decoding``.

    Raises:
        RuntimeError: If it does not start.
    """

    def __init__(self) -> None:
        self._words = tempfile.TemporaryFile()  # noqa: SIM115 -- open as long as the process; a pipe would fill up
        self._channel, theirs = socket.socketpair()
        with theirs:
            # -P: modules in its folder do not hide others
            command = [sys.executable, "-P", str(SCRIPT), str(theirs.fileno())]
            self.popen = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._words,
                pass_fds=[theirs.fileno()],
            )
        assert self.popen.stdin is not None
        assert self.popen.stdout is not None
        self._requests, self._answers = self.popen.stdin, self.popen.stdout
        if not self._answers.readline():
            self.stop()
            raise RuntimeError(f"video decoding does not start ({self._last_words()}); fastvmt doctor may know why")

    def answer(self, request: dict[str, Any], limit: float) -> tuple[dict[str, Any], np.ndarray]:
        """Return the answer to a request, and its pictures.

        Raises:
            EOFError: If the process ends, or is killed after ``limit`` seconds without progress.
        """
        late = Event()
        try:
            self._requests.write(json.dumps(request).encode() + b"\n")
            self._requests.flush()
            while True:
                with self._killed_after(limit, late):
                    message = self._message()
                if message:  # an empty message reports progress
                    return message, self._pictures(message.get("shape"))
        except (EOFError, BrokenPipeError):
            with suppress(subprocess.TimeoutExpired):  # its exit status gives the reason
                self.popen.wait(5)
            self.stop()
            if late.is_set():
                raise EOFError(f"hangs the decoder: no progress in {limit:g} seconds ({TIMEOUT} sets more)") from None
            raise EOFError(f"crashes the decoder ({self._last_words()})") from None

    def stop(self) -> None:
        """Kill the process."""
        self.popen.kill()
        self.popen.wait()
        with suppress(BrokenPipeError):  # a request that it has not read
            self._requests.close()
        self._answers.close()
        self._channel.close()

    def _message(self) -> dict[str, Any]:
        line = self._answers.readline()
        if not line.endswith(b"\n"):
            raise EOFError
        message: dict[str, Any] = json.loads(line)
        return message

    def _pictures(self, shape: list[int] | None) -> np.ndarray:
        """Return the pictures that the process has sent, if any."""
        if shape is None:
            return np.empty((0, 0, 0, 3), np.uint8)
        _, (descriptor,), _, _ = socket.recv_fds(self._channel, 1, 1)
        try:
            memory = mmap.mmap(descriptor, 0)
        except OSError as error:
            raise MemoryError(str(error)) from error
        finally:
            os.close(descriptor)
        return np.ndarray(shape, np.uint8, memory)

    @contextmanager
    def _killed_after(self, limit: float, late: Event) -> Iterator[None]:
        def kill() -> None:
            late.set()
            self.popen.kill()

        timer = Timer(limit, kill)
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _last_words(self) -> str:
        """Return the signal or the error that ended the process."""
        status = self.popen.returncode
        if status < 0:
            name = signal.Signals(-status).name
            return f"{name}, as when memory runs out" if status == -signal.SIGKILL else name
        self._words.seek(0)
        lines = self._words.read().decode(errors="replace").split("\n")
        return next((line for line in reversed(lines) if line.strip()), f"exit status {status}")


def timeout() -> float:
    """Return the seconds without progress after which decoding is stopped.

    Raises:
        UserError: If the environment variable is not a positive number.
    """
    given = os.environ.get(TIMEOUT, str(DEFAULT_TIMEOUT))
    try:
        seconds = float(given)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < TIMEOUT_MAX:
        raise UserError(f"{TIMEOUT} is {given}; set it to seconds, more than 0")
    return seconds
