"""Read video files, decoded in another process."""

import atexit
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import UInt8
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from fastvmt_pl.clips.decoder_process import DecoderProcess, timeout
from fastvmt_pl.clips.timeline import Timeline
from fastvmt_pl.errors import UserError

DecoderName = Literal["pyav", "decord"]


class ClipError(UserError):
    """A clip cannot be used; the message says why and what to change."""


class ClipReader:
    """A video file.

    Args:
        path: The file.
        decoder: What makes pictures of its frames: PyAV, or decord where a file is shown as it is stored. PyAV reports
            damage in both cases, so decord is no faster.

    Attributes:
        timeline: When each frame is shown.

    Raises:
        ClipError: If it is no video, or not a whole one.
    """

    def __init__(self, path: Path, decoder: DecoderName = "pyav") -> None:
        self.path, self.decoder = path, decoder
        described, _ = DECODER.ask(path, [], decoder)
        self.timeline = Timeline(described["times"], described["end"])

    def read(self, indices: Sequence[int]) -> UInt8[Tensor, "frames height width 3"]:
        """Return frames by their numbers, which may come more than once, and warn if they differ from what is stored.

        Raises:
            ClipError: If one of them cannot be decoded.
        """
        wanted, places = np.unique(indices, return_inverse=True)
        answer, pictures = DECODER.ask(self.path, wanted.tolist(), self.decoder)
        for note in answer["notes"]:
            rank_zero_warn(f"clip {self.path} {note}")
        return torch.from_numpy(pictures if wanted.tolist() == list(indices) else pictures[places])


class Decoder:
    """Decodes in a process that is started when it is needed, and again after it was stopped or has ended."""

    def __init__(self) -> None:
        self.process: DecoderProcess | None = None
        self._lock, self._owner = Lock(), os.getpid()

    def ask(self, path: Path, indices: list[int], decoder: DecoderName) -> tuple[dict[str, Any], np.ndarray]:
        """Return when a file's frames are shown, or those of the given ascending numbers.

        Raises:
            ClipError: If it cannot be decoded, or decoding crashes or makes no progress.
        """
        limit = timeout()
        request = {"path": str(path.absolute()), "indices": indices, "decoder": decoder}
        with self._lock:
            try:
                message, pictures = self._ask(request, limit)
            except EOFError as error:
                raise ClipError(f"clip {path} {error}; get it again, or convert it to mp4") from None
            except MemoryError as error:
                raise ClipError(
                    f"clip {path} cannot be kept in memory ({error}); use fewer frames, or fewer clips at a time"
                ) from error
        if "error" in message:
            raise ClipError(f"clip {path} {message['error']}")
        return message, pictures

    def stop(self) -> None:
        """Stop the process, if there is one."""
        if self.process is not None and self._owner == os.getpid():
            self.process.stop()
        self.process = None

    def _ask(self, request: dict[str, Any], limit: float) -> tuple[dict[str, Any], np.ndarray]:
        if self._owner != os.getpid():  # a fork of the process that started it, and that goes on talking to it
            self.process, self._owner = None, os.getpid()
        if self.process is not None:
            with suppress(EOFError):  # it may have been idle for too long, or harmed by an earlier clip
                return self._answer(request, limit)
        self.process = DecoderProcess()
        return self._answer(request, limit)

    def _answer(self, request: dict[str, Any], limit: float) -> tuple[dict[str, Any], np.ndarray]:
        assert self.process is not None
        try:
            return self.process.answer(request, limit)
        except BaseException:
            self.stop()  # what it may still send belongs to no later request
            raise


DECODER = Decoder()
"""The one of this process."""
atexit.register(DECODER.stop)
