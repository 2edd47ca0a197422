"""Share work among any number of processes that have nothing in common but a folder."""

import json
import tempfile
import time
import traceback
from collections.abc import Callable, Hashable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import torch

from fastvmt_pl.errors import UserError, one_line
from fastvmt_pl.files.atomic import written_whole
from fastvmt_pl.processes.stop_request import Preempted, StopRequest

FAILED = "failed.json"
"""Why a piece of work failed; in its folder."""
BROKEN = getattr(torch, "AcceleratorError", Preempted)  # which torch has since 2.8
"""What a GPU raises from its first failure on, whatever it is to do."""

Piece = TypeVar("Piece")


def share(pieces: Iterable[Piece], attempt: Callable[[Piece], bool], request: StopRequest, *, to_the_end: bool) -> None:
    """Do what nobody else is at, until there is nothing left.

    Args:
        pieces: All pieces of work, the same in all processes.
        attempt: Does a piece, unless it is done or has failed; returns whether another process is at it.
        request: Whether this process was asked to stop.
        to_the_end: Wait for what others are at, and take over what they leave when they die.

    Raises:
        Preempted: If this process was asked to stop.
    """
    while True:
        taken = []
        for piece in pieces:
            request.check()
            if attempt(piece):
                taken.append(piece)
        if not (taken and to_the_end):
            return
        pieces = taken
        time.sleep(0.5)


def together(pieces: Iterable[Piece], kind: Callable[[Piece], Hashable], number: int) -> list[Piece]:
    """Bring pieces of a kind together, in the order in which they come.

    Args:
        pieces: All pieces of work.
        kind: What those pieces have in common that are to be done one after the other.
        number: The process's number; each begins with another kind, while there are others.

    >>> together("aBbAc", str.lower, number=1)
    ['B', 'b', 'c', 'a', 'A']
    """
    kinds: dict[Hashable, list[Piece]] = {}
    for piece in pieces:
        kinds.setdefault(kind(piece), []).append(piece)
    parts = list(kinds.values())
    first = number % len(parts) if parts else 0
    return [piece for part in (*parts[first:], *parts[:first]) for piece in part]


def now_of(folder: Path) -> int:
    """Return the time in nanoseconds by the clock of a folder's file system."""
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        return Path(file.name).stat().st_mtime_ns


def failure_of(work: Callable[[], Any]) -> str | None:
    """Do some work; return why it failed, or ``None`` if it did not. A bug also prints its traceback.

    Raises:
        Preempted: If this process was asked to stop.
        torch.AcceleratorError: If the device is broken, which is no fault of the work: others are to take it.
    """
    try:
        work()
    except (Preempted, BROKEN):
        raise
    except Exception as error:  # other pieces of work go on
        if not isinstance(error, UserError | RuntimeError | OSError):
            traceback.print_exc()
        return one_line(str(error)) or type(error).__name__
    return None


class Failures:
    """Why pieces of work failed, here or in another process since this one began.

    Args:
        folder: A folder of the work, by the clock of whose file system this process begins.

    Attributes:
        reasons: Why, by the folder of each piece, as far as this process has heard of it.
    """

    def __init__(self, folder: Path) -> None:
        self.reasons: dict[Path, str] = {}
        self.begun = now_of(folder)

    def record(self, folder: Path, reason: str) -> None:
        """Tell all processes why the work of a folder failed."""
        self.reasons[folder] = reason
        with suppress(OSError), written_whole(folder / FAILED) as path:  # the disk may be full
            path.write_text(json.dumps({"reason": reason}) + "\n", encoding="utf-8")

    def reason(self, folder: Path) -> str | None:
        """Return why the work of a folder failed, or ``None`` if it did not."""
        path = folder / FAILED
        if folder not in self.reasons and path.exists() and path.stat().st_mtime_ns >= self.begun:
            self.reasons[folder] = json.loads(path.read_text(encoding="utf-8"))["reason"]
        return self.reasons.get(folder)
