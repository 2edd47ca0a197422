"""Hashes of files, cached on disk, so that gigabytes of weights are hashed once."""

import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from filelock import FileLock
from lightning.pytorch.utilities import rank_zero_info

from fastvmt_pl.errors import UserError
from fastvmt_pl.files.atomic import write_text
from fastvmt_pl.files.user_cache import user_cache

SETTLED = 2.0
"""Seconds after which a change of content surely changes the modification time; file systems round it to 2 seconds."""
PATIENCE = 600.0
"""Seconds to wait for another process that hashes the same file."""
LARGE = 1 << 30
"""Size in bytes from which hashing is announced, since it takes a while."""


class Stamp(NamedTuple):
    """The path and status of a file, which change when its content changes."""

    path: str
    size: int
    mtime_ns: int
    inode: int


KNOWN: dict[Stamp, str] = {}
"""Hashes that this process has computed or read from the cache."""


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content, as hexadecimal digits.

    The hash is cached under the real path, size, modification time and inode: in this process, and in the user's cache
    folder. Processes that share the folder wait for each other. Without a cache folder, each process hashes the file
    once.

    Raises:
        OSError: If the file cannot be read.
    """
    real = path.resolve(strict=True)
    known = KNOWN.get(_stamp(real))
    if known is not None:
        return known
    try:
        memory = user_cache() / "hashes"
        memory.mkdir(parents=True, exist_ok=True)
    except (UserError, OSError):
        return _remember(real)
    record = memory / f"{hashlib.sha256(os.fsencode(real)).hexdigest()[:32]}.json"
    known = _remembered(record, real)
    if known is not None:
        return known
    with _locked(record):
        return _remembered(record, real) or _remember(real, record)


def _remembered(record: Path, path: Path) -> str | None:
    """Return the cached hash of a file, or ``None`` if there is none or the file has changed."""
    stamp = _stamp(path)
    with suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(record.read_text())
        if known["file"] == stamp._asdict() and re.fullmatch("[0-9a-f]{64}", known["sha256"]):
            KNOWN[stamp] = known["sha256"]
    return KNOWN.get(stamp)


def _remember(path: Path, record: Path | None = None) -> str:
    """Hash a file and cache the hash, unless the file was changed so recently that its time stamp is not reliable."""
    before = _stamp(path)
    found = _hashed(path)
    age = time.time() - path.stat().st_mtime
    if _stamp(path) == before and not 0 <= age < SETTLED:
        KNOWN[before] = found
        if record is not None:
            with suppress(OSError):
                write_text(record, json.dumps({"file": before._asdict(), "sha256": found}))
    return found


def _stamp(path: Path) -> Stamp:
    status = path.stat()
    return Stamp(str(path), status.st_size, status.st_mtime_ns, status.st_ino)


def _hashed(path: Path) -> str:
    if path.stat().st_size >= LARGE:
        rank_zero_info(f"hashing {path}; the hash is cached")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _locked(record: Path) -> Iterator[None]:
    """Keep other processes from hashing the same file, if the cache folder can be written."""
    lock = FileLock(record.with_suffix(".lock"))
    with suppress(OSError):  # filelock.Timeout is one: another process is stuck, and hashing twice is harmless
        lock.acquire(timeout=PATIENCE)
    try:
        yield
    finally:
        lock.release()
