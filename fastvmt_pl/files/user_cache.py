"""The user's cache folder, looked up on use, since a process may have no home folder."""

import os
import tempfile
from pathlib import Path

from fastvmt_pl.errors import UserError


def user_cache() -> Path:
    """Return this package's folder in the user's cache: under ``XDG_CACHE_HOME``, or ``~/.cache``.

    Raises:
        UserError: If neither is known.
    """
    place = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    try:
        return Path(place).expanduser() / "fastvmt_pl"
    except RuntimeError as error:
        raise UserError(
            "this user has no home folder for the cache; set the environment variable XDG_CACHE_HOME to one"
        ) from error


def check_writable(folder: Path, advice: str) -> None:
    """Create a folder and try to write in it.

    Args:
        folder: The folder.
        advice: What to do if it cannot be written.

    Raises:
        UserError: If it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"a few bytes")
    except OSError as error:
        raise UserError(
            f"the cache folder {folder} cannot be used ({os.strerror(error.errno or 0)}); {advice}"
        ) from error
