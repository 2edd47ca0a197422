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
        decoder: Makes the pictures: PyAV, or decord for files whose frames are shown as they are stored. PyAV checks
            the file for damage in both cases, so decord is not faster.

    Attributes:
        timeline: Time at which each frame is shown.

    Raises:
        ClipError: If it is not a video, or not complete.
    """

    def __init__(self, path: Path, decoder: DecoderName = "pyav") -> None:
        self.path, self.decoder = path, decoder
        described, _ = DECODER.ask(path, [], decoder)
        self.timeline = Timeline(described["times"], described["end"])

    def read(self, indices: Sequence[int]) -> UInt8[Tensor, "frames height width 3"]:
        """Return frames by their numbers, which may repeat. Warn if the pictures differ from the stored frames.

        Raises:
            ClipError: If one of them cannot be decoded.
        """
        wanted, places = np.unique(indices, return_inverse=True)
        answer, pictures = DECODER.ask(self.path, wanted.tolist(), self.decoder)
        for note in answer["notes"]:
            rank_zero_warn(f"clip {self.path} {note}")
        return torch.from_numpy(pictures if wanted.tolist() == list(indices) else pictures[places])


class Decoder:
    """Decodes in another process, which it starts on use, again if it has ended."""

    def __init__(self) -> None:
        self.process: DecoderProcess | None = None
        self._lock, self._owner = Lock(), os.getpid()

    def ask(self, path: Path, indices: list[int], decoder: DecoderName) -> tuple[dict[str, Any], np.ndarray]:
        """Return the times of a file's frames or, if numbers are given, in ascending order, these frames.

        Raises:
            ClipError: If it cannot be decoded, or the decoder crashes or makes no progress.
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
        if self._owner != os.getpid():  # this is a fork; the decoder belongs to its parent
            self.process, self._owner = None, os.getpid()
        if self.process is not None:
            with suppress(EOFError):  # it may have ended after idling, or been damaged by an earlier clip
                return self._answer(request, limit)
        self.process = DecoderProcess()
        return self._answer(request, limit)

    def _answer(self, request: dict[str, Any], limit: float) -> tuple[dict[str, Any], np.ndarray]:
        assert self.process is not None
        try:
            return self.process.answer(request, limit)
        except BaseException:
            self.stop()  # a late answer would be taken for that of the next request
            raise


DECODER = Decoder()
"""The decoder of this process."""
atexit.register(DECODER.stop)
