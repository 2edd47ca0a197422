"""Atomic writes: a file is either complete or absent."""

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
"""Error numbers of a full disk, a full quota and a limit on file sizes."""
CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS)
"""Error numbers of a folder that cannot be written."""


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
    """Yield a temporary path with the same suffix, which replaces ``path`` when the block ends without an error.

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
                    os.fsync(file.fileno())  # after a power cut, either the old or the new content remains
            os.replace(temporary, path)


def write_text(path: Path, text: str) -> None:
    """Write a text file as a whole, in UTF-8.

    Raises:
        UnwritableError: If the file cannot be written.
    """
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Replace errors that name a temporary file, or no file, by an error that names the user's file.

    Args:
        path: The file or folder that is being written.

    Raises:
        UnwritableError: If it cannot be written; it has the error number of the original error.
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
    """Return whether an error names a path, a parent or a temporary file, or reports a full disk."""
    if isinstance(error, UnwritableError):
        return PREFIX in str(error)
    if error.filename is None:
        return error.errno in FULL
    name = os.fsdecode(error.filename)
    return PREFIX in name or Path(name) in (path, *path.parents)


def remove_unfinished(folder: Path) -> None:
    """Remove the temporary files of killed processes from a folder that no other process is using."""
    for path in folder.rglob(f"{PREFIX}*"):
        shutil.rmtree(path, ignore_errors=True)
