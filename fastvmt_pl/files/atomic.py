"""Write files so that each is either whole or not there."""

import errno
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

PREFIX = ".writing-"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""The disk, a quota or a limit on the size of files leaves no room."""
CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS)
"""The folder cannot be written."""


class UnwritableError(OSError):
    """A file or folder cannot be written; the message names it and says what to do."""

    def __init__(self, path: Path, number: int) -> None:
        advice = ""
        if number in FULL:
            advice = "; make room there, or choose another folder"
        elif number in CLOSED:
            advice = "; choose a folder that can be written"
        super().__init__(number, f"{path} cannot be written: {os.strerror(number)}{advice}")

    def __str__(self) -> str:
        return str(self.strerror)


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path with the same ending that replaces ``path`` if nothing fails.

    Raises:
        UnwritableError: If the file cannot be written.
    """
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=PREFIX) as folder:
            temporary = Path(folder) / path.name
            yield temporary
            if temporary.is_file():
                with temporary.open("rb") as file:
                    os.fsync(file.fileno())  # a machine that loses its power is to find the old content or the new one
            os.replace(temporary, path)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Replace errors of writing that name no file, or a temporary one, by one that names what the user knows.

    Args:
        path: The file that is written, or the folder.

    Raises:
        UnwritableError: If it cannot be written, with the number of the first error.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or not _is_about(error, path):
            raise
        raise UnwritableError(path, error.errno) from error
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise UnwritableError(path, int(number[1])) from error


def _is_about(error: OSError, path: Path) -> bool:
    """Return whether an error names a temporary file, the path or its parents, or no file, and the disk is full."""
    if isinstance(error, UnwritableError):
        return PREFIX in str(error)
    if error.filename is None:
        return error.errno in FULL
    name = os.fsdecode(error.filename)
    return PREFIX in name or Path(name) in (path, *path.parents)


def remove_unfinished(folder: Path) -> None:
    """Remove what processes that were killed had begun to write in a folder; no other process may be using it."""
    for path in folder.rglob(f"{PREFIX}*"):
        shutil.rmtree(path, ignore_errors=True)
