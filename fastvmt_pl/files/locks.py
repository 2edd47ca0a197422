"""Locks on files and folders; the kernel releases them when a process dies."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from fastvmt_pl.errors import UserError

LOCK = ".lock"
"""Name of the lock file of a folder."""
PATIENCE = 60.0
"""Seconds to wait for a short operation of another process."""


class InUseError(UserError):
    """Another process is using a folder."""


@contextmanager
def locked(folder: Path, patience: float = 0.0) -> Iterator[None]:
    """Create a folder and hold its lock.

    Args:
        folder: The folder.
        patience: Seconds to wait for a process that is using it.

    Raises:
        InUseError: If another process is using the folder.
    """
    _make(folder)
    with _held(folder / LOCK, folder, patience):
        yield


@contextmanager
def locked_file(path: Path, patience: float = 0.0) -> Iterator[None]:
    """Hold the lock of a file or folder, which is a hidden file next to it.

    Args:
        path: The file or folder; it need not exist.
        patience: Seconds to wait for a process that is using it.

    Raises:
        InUseError: If another process is using the file.
    """
    _make(path.parent)
    with _held(path.with_name(f".{path.name}{LOCK}"), path, patience):
        yield


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError, PermissionError) as error:
        raise UserError(f"folder {folder} cannot be made ({error.strerror}); choose another output") from error


@contextmanager
def _held(lock: Path, place: Path, patience: float) -> Iterator[None]:
    held = FileLock(lock)
    try:
        held.acquire(timeout=patience)
    except Timeout as error:
        raise InUseError(f"another process is using {place}; wait for it to end, or stop it") from error
    try:
        yield
    finally:
        held.release()
