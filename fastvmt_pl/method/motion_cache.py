"""The folder of extracted motion: entries are found, stored, listed and removed."""

import errno
import fcntl
import os
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from lightning.pytorch.utilities import rank_zero_warn
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save_file
from torch import Tensor

from fastvmt_pl.errors import UserError
from fastvmt_pl.files.atomic import PREFIX, written_whole
from fastvmt_pl.files.user_cache import check_writable, user_cache

LIMIT = "FASTVMT_MOTION_CACHE_GIB"
"""Environment variable: GiB that the folder may take."""
DEFAULT_LIMIT = 10.0
ABANDONED = 24 * 60 * 60
"""Seconds after which no process is still writing what it began: it was killed."""


@dataclass(frozen=True)
class Entry:
    """The motion of a clip under some settings.

    Attributes:
        path: Its file.
        size: Bytes.
        used: When it was last read or written, in seconds since 1970.
    """

    path: Path
    size: int
    used: float

    @property
    def clip(self) -> str:
        """Name of the clip."""
        try:
            with safe_open(self.path, "pt") as file:
                return str((file.metadata() or {}).get("clip", "unknown clip"))
        except (SafetensorError, OSError):
            return "unreadable"


class MotionCache:
    """Extracted motion on disk.

    What was not used for longest is removed when the folder grows beyond its limit. An entry that a process is reading
    is never removed.

    Args:
        folder: The folder; ``None`` is ``motion`` in the user's cache folder.

    Raises:
        ValueError: If there is no user's cache folder.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = user_cache() / "motion" if folder is None else Path(folder)

    def check(self) -> None:
        """Raise ``ValueError`` unless the folder can be written and its limit is a number."""
        cache_limit()
        check_writable(self.folder, "set data.cache_dir or the environment variable XDG_CACHE_HOME to another folder")

    def load(self, key: str) -> dict[str, Tensor] | None:
        """Return what is stored under a key; ``None`` if there is nothing, or it is damaged."""
        path = self._path(key)
        try:
            with path.open("rb") as file:
                _lock(file, fcntl.LOCK_SH)
                with suppress(OSError):  # another user's
                    os.utime(path)
                return load(file.read())
        except FileNotFoundError:
            return None
        except OSError as error:
            if error.errno == errno.ESTALE:  # another machine has removed it meanwhile
                return None
            raise
        except SafetensorError as error:
            rank_zero_warn(f"{path} is damaged ({error}); extracting again")
            return None

    def store(self, key: str, tensors: dict[str, Tensor], clip: str) -> Path:
        """Store tensors under a key, and remove what was not used for longest if the folder is too large.

        What other processes left unfinished more than a day ago is removed too.

        Raises:
            UnwritableError: If they cannot be written.
        """
        path = self._path(key)
        with written_whole(path) as temporary:
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, {"clip": clip})
        self.remove_abandoned()
        others = [entry for entry in self.entries() if entry.path != path]
        excess = sum(entry.size for entry in others) + path.stat().st_size - cache_limit() * 2**30
        for entry in others:
            if excess > 0 and self.remove([entry]):
                excess -= entry.size
        return path

    def entries(self) -> list[Entry]:
        """Return all entries, the one that was not used for longest first."""
        found = []
        for path in self.folder.glob("*.safetensors"):
            with suppress(FileNotFoundError):  # another process has removed it since
                status = path.stat()
                found.append(Entry(path, status.st_size, status.st_mtime))
        return sorted(found, key=lambda entry: entry.used)

    def remove(self, entries: Sequence[Entry]) -> list[Entry]:
        """Remove entries, but for those that are being read; return what was removed."""
        return [entry for entry in entries if _removed(entry.path)]

    def remove_abandoned(self) -> None:
        """Remove what processes had begun to write more than a day ago and did not finish."""
        for path in self.folder.glob(f"{PREFIX}*"):
            with suppress(FileNotFoundError):  # another process has finished or removed it since
                if time.time() - path.stat().st_mtime > ABANDONED:
                    shutil.rmtree(path, ignore_errors=True)

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"


def cache_limit() -> float:
    """Return how many GiB the folder may take.

    Raises:
        ValueError: If the environment asks for what cannot be.
    """
    given = os.environ.get(LIMIT, str(DEFAULT_LIMIT))
    try:
        limit = float(given)
    except ValueError:
        limit = -1.0
    if not limit >= 0:
        raise UserError(f"{LIMIT} is {given}; set it to GiB, 0 or more")
    return limit


def _removed(path: Path) -> bool:
    """Remove a file that no process reads; return whether it is gone."""
    try:
        with path.open("rb") as file:
            if not _lock(file, fcntl.LOCK_EX | fcntl.LOCK_NB):
                return False
            path.unlink()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _lock(file: IO[bytes], kind: int) -> bool:
    """Lock an open file until it is closed; return ``False`` if others have locked it. Some disks have no locks."""
    try:
        fcntl.flock(file, kind)
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True
