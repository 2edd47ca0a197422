"""``fastvmt cache``: see and clear what is kept of clips' motion."""

from datetime import datetime
from pathlib import Path

from fastvmt_pl.method.motion_cache import Entry, MotionCache, cache_limit


def cache(clear: bool = False, folder: Path | None = None) -> list[Entry]:
    """List the motion that was extracted from clips and is kept for other prompts and seeds.

    Args:
        clear: Remove it, and what processes that were killed had begun to write; what a process is reading stays.
        folder: The cache folder; by default the user's.

    Returns:
        What is kept, least recently used first.

    Raises:
        ValueError: If there is no cache folder.
    """
    motion = MotionCache(folder)
    entries: list[Entry] = motion.entries()
    if clear:
        motion.remove_abandoned()
        removed = motion.remove(entries)
        print(f"removed {_total(removed)} from {motion.folder}")
        entries = [entry for entry in entries if entry not in removed]
        if entries:
            print(f"kept {_total(entries)}, in use or not removable")
        return entries
    for entry in entries:
        print(f"{_mib(entry.size)}  {datetime.fromtimestamp(entry.used):%Y-%m-%d %H:%M}  {entry.clip}")
    print(f"{_total(entries)} in {motion.folder}; the limit is {cache_limit():g} GiB")
    return entries


def _total(entries: list[Entry]) -> str:
    counted = "1 entry" if len(entries) == 1 else f"{len(entries)} entries"
    return f"{counted} of {_mib(sum(entry.size for entry in entries)).strip()}"


def _mib(size: int) -> str:
    return f"{size / 2**20:9.1f} MiB"
