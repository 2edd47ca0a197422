"""Read video files, decoded in another process."""

import atexit
import os
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from fastvmt_pl.errors import UserError

from .decoder_process import DecoderProcess, timeout


class ClipError(UserError):
    """A clip cannot be used; the message says why and what to change."""


class ClipReader:
    """A video file.

    Attributes:
        num_frames: How many frames it has.
        fps: Frames a second.

    Raises:
        ClipError: If it is no video, or not a whole one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        described, _ = DECODER.ask(path, [])
        self.num_frames, self.fps = int(described["num_frames"]), float(described["fps"])

    def read(self, indices: list[int]) -> UInt8[Tensor, "frames height width 3"]:
        """Return frames by their numbers, which may come more than once.

        Raises:
            ClipError: If one of them cannot be decoded.
        """
        wanted, places = np.unique(indices, return_inverse=True)
        _, pictures = DECODER.ask(self.path, wanted.tolist())
        return torch.from_numpy(pictures if wanted.tolist() == indices else pictures[places])


class Decoder:
    """Decodes in a process that is started when it is needed, and again after it was stopped or has ended."""

    def __init__(self) -> None:
        self.process: DecoderProcess | None = None
        self._lock, self._owner = Lock(), os.getpid()

    def ask(self, path: Path, indices: list[int]) -> tuple[dict[str, Any], np.ndarray]:
        """Return what a file is, and its frames of the given ascending numbers.

        Raises:
            ClipError: If it cannot be decoded, or decoding crashes or makes no progress.
        """
        limit = timeout()
        with self._lock:
            try:
                message, pictures = self._ask(path, indices, limit)
            except EOFError as error:
                raise ClipError(f"clip {path} {error}; get it again, or convert it to mp4") from None
            except MemoryError as error:
                raise ClipError(f"clip {path} does not fit into memory ({error}); use fewer frames") from error
        if "error" in message:
            raise ClipError(f"clip {path} {message['error']}")
        return message, pictures

    def stop(self) -> None:
        """Stop the process, if there is one."""
        if self.process is not None and self._owner == os.getpid():
            self.process.stop()
        self.process = None

    def _ask(self, path: Path, indices: list[int], limit: float) -> tuple[dict[str, Any], np.ndarray]:
        if self._owner != os.getpid():  # a fork of the process that started it, and that goes on talking to it
            self.process, self._owner = None, os.getpid()
        if self.process is not None:
            with suppress(EOFError):  # it may have been idle for too long, or harmed by an earlier clip
                return self._answer(path, indices, limit)
        self.process = DecoderProcess()
        return self._answer(path, indices, limit)

    def _answer(self, path: Path, indices: list[int], limit: float) -> tuple[dict[str, Any], np.ndarray]:
        assert self.process is not None
        try:
            return self.process.answer({"path": str(path.absolute()), "indices": indices}, limit)
        except BaseException:
            self.stop()  # what it may still send belongs to no later request
            raise


DECODER = Decoder()
"""The one of this process."""
atexit.register(DECODER.stop)
