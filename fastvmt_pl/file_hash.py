"""Hashes of whole files, remembered, so that gigabytes of weights are read for it once."""

import hashlib
import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock
from lightning.pytorch.utilities import rank_zero_info

from fastvmt_pl.errors import UserError
from fastvmt_pl.files import written_whole
from fastvmt_pl.user_cache import user_cache

SETTLED = 2.0
"""Seconds after which a file's time tells another content for sure: file systems count in steps of up to two."""
LARGE = 1 << 30
"""Bytes from which hashing takes long enough to be announced."""


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content, as hexadecimal digits.

    It is remembered in the user's cache folder by real path, size, time of the last change and inode. Several processes
    wait for each other. Without a cache folder the file is hashed again.

    Raises:
        OSError: If the file cannot be read.
    """
    real = path.resolve(strict=True)
    try:
        memory = user_cache() / "hashes"
        memory.mkdir(parents=True, exist_ok=True)
    except (UserError, OSError):
        return _hashed(real)
    record = memory / f"{hashlib.sha256(os.fsencode(real)).hexdigest()[:32]}.json"
    known = _remembered(record, real)
    if known is not None:
        return known
    with _locked(record):
        return _remembered(record, real) or _remember(record, real)


def _remembered(record: Path, path: Path) -> str | None:
    """Return the hash that a record holds of a file, if the file is still the same and the record is whole."""
    try:
        known = json.loads(record.read_text())
        same = known["file"] == _stamp(path)
        return known["sha256"] if same and re.fullmatch("[0-9a-f]{64}", known["sha256"]) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _remember(record: Path, path: Path) -> str:
    before = _stamp(path)
    found = _hashed(path)
    age = time.time() - path.stat().st_mtime
    if _stamp(path) == before and not 0 <= age < SETTLED:
        try:
            with written_whole(record) as temporary:
                temporary.write_text(json.dumps({"file": before, "sha256": found}))
        except OSError:
            return found
    return found


def _stamp(path: Path) -> dict[str, Any]:
    status = path.stat()
    return {"path": str(path), "size": status.st_size, "mtime_ns": status.st_mtime_ns, "inode": status.st_ino}


def _hashed(path: Path) -> str:
    if path.stat().st_size >= LARGE:
        rank_zero_info(f"hashing {path}, which is done once")
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _locked(record: Path) -> Iterator[None]:
    """Keep other processes from hashing the same file meanwhile, where the cache folder can be written."""
    lock = FileLock(record.with_suffix(".lock"))
    try:
        lock.acquire()
    except OSError:
        yield
        return
    try:
        yield
    finally:
        lock.release()
