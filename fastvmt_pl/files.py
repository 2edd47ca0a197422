"""Write files so that each is either whole or not there."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PREFIX = ".writing-"


@contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path with the same ending that replaces ``path`` if nothing fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=PREFIX) as folder:
        temporary = Path(folder) / path.name
        yield temporary
        if temporary.is_file():
            with temporary.open("rb") as file:
                os.fsync(file.fileno())  # a machine that loses its power is to find the old content or the new one
        os.replace(temporary, path)


def remove_unfinished(folder: Path) -> None:
    """Remove what processes that were killed had begun to write in a folder; no other process may be at work in it."""
    for path in folder.rglob(f"{PREFIX}*"):
        shutil.rmtree(path, ignore_errors=True)
