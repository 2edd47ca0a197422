"""Hashes of whole files, remembered, so that gigabytes of weights are read for it once."""

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
from fastvmt_pl.files.atomic import written_whole
from fastvmt_pl.files.user_cache import user_cache

SETTLED = 2.0
"""Seconds after which a file's time tells another content for sure: file systems count in steps of up to two."""
PATIENCE = 600.0
"""Seconds to wait for another process that hashes the same file."""
LARGE = 1 << 30
"""Bytes from which hashing takes long enough to be announced."""


class Stamp(NamedTuple):
    """What tells one content of a file from another without reading it."""

    path: str
    size: int
    mtime_ns: int
    inode: int


KNOWN: dict[Stamp, str] = {}
"""Hashes that this process knows."""


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content, as hexadecimal digits.

    It is remembered by real path, size, time of the last change and inode: in this process, and in the user's cache
    folder, where several processes wait for each other. Without a cache folder each process hashes the file once.

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
    """Return a file's hash if this process knows it, or a whole record has it and the file is still the same."""
    stamp = _stamp(path)
    with suppress(OSError, ValueError, KeyError, TypeError):
        known = json.loads(record.read_text())
        if known["file"] == stamp._asdict() and re.fullmatch("[0-9a-f]{64}", known["sha256"]):
            KNOWN[stamp] = known["sha256"]
    return KNOWN.get(stamp)


def _remember(path: Path, record: Path | None = None) -> str:
    """Hash a file, and remember the hash unless the file may still change within its time stamp."""
    before = _stamp(path)
    found = _hashed(path)
    age = time.time() - path.stat().st_mtime
    if _stamp(path) == before and not 0 <= age < SETTLED:
        KNOWN[before] = found
        if record is not None:
            with suppress(OSError), written_whole(record) as temporary:
                temporary.write_text(json.dumps({"file": before._asdict(), "sha256": found}))
    return found


def _stamp(path: Path) -> Stamp:
    status = path.stat()
    return Stamp(str(path), status.st_size, status.st_mtime_ns, status.st_ino)


def _hashed(path: Path) -> str:
    if path.stat().st_size >= LARGE:
        rank_zero_info(f"hashing {path}, which is done once")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _locked(record: Path) -> Iterator[None]:
    """Keep other processes from hashing the same file meanwhile, where the cache folder can be written."""
    lock = FileLock(record.with_suffix(".lock"))
    with suppress(OSError):  # filelock.Timeout is one: another process is stuck, and hashing twice is harmless
        lock.acquire(timeout=PATIENCE)
    try:
        yield
    finally:
        lock.release()
