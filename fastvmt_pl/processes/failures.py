"""What processes tell each other that have nothing in common but a folder."""

import json
import tempfile
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from fastvmt_pl.errors import UserError, one_line
from fastvmt_pl.files.atomic import write_text
from fastvmt_pl.processes.stop_request import Preempted

FAILED = "failed.json"
"""File in the folder of a piece of work that failed, with the reason."""
BROKEN = getattr(torch, "AcceleratorError", Preempted)  # torch has it since 2.8
"""The error that a GPU raises at every call after its first failure."""


def now_of(folder: Path) -> int:
    """Return the time in nanoseconds by the clock of a folder's file system."""
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        return Path(file.name).stat().st_mtime_ns


def failure_of(work: Callable[[], Any]) -> str | None:
    """Do some work; return the reason if it failed, else ``None``. A bug also prints its traceback.

    Raises:
        Preempted: If this process was asked to stop.
        torch.AcceleratorError: If the device is broken; another process can do the work.
    """
    try:
        work()
    except (Preempted, BROKEN):
        raise
    except Exception as error:  # other pieces of work continue
        if not isinstance(error, UserError | RuntimeError | OSError):
            traceback.print_exc()
        return one_line(str(error)) or type(error).__name__
    return None


class Failures:
    """The reasons why pieces of work failed, in any process, since this process began.

    Args:
        folder: A folder of the work; the clock of its file system gives the time at which this process began.

    Attributes:
        reasons: The reasons that this process has read, by the folder of each piece.
    """

    def __init__(self, folder: Path) -> None:
        self.reasons: dict[Path, str] = {}
        self.begun = now_of(folder)

    def record(self, folder: Path, reason: str) -> None:
        """Record for all processes why the work of a folder failed."""
        self.reasons[folder] = reason
        with suppress(OSError):  # the disk may be full
            write_text(folder / FAILED, json.dumps({"reason": reason}) + "\n")

    def reason(self, folder: Path) -> str | None:
        """Return why the work of a folder failed, or ``None`` if it did not."""
        path = folder / FAILED
        if folder not in self.reasons and path.exists() and path.stat().st_mtime_ns >= self.begun:
            self.reasons[folder] = json.loads(path.read_text(encoding="utf-8"))["reason"]
        return self.reasons.get(folder)
