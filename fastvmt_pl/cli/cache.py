"""``fastvmt cache``."""

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from fastvmt_pl.cli.words import Command
from fastvmt_pl.method.motion_cache import Entry, MotionCache, cache_limit

DETAIL = """Prints the size, the time of the last use and the clip of each entry, and the total.

Example: fastvmt cache --clear"""


def cache(clear: bool = False, folder: Path | None = None) -> None:
    """List the motion that was extracted from clips and is kept for other prompts and seeds.

    Args:
        clear: Remove it, and what processes that were killed had begun to write; what a process is reading stays.
        folder: The cache folder. Default: the user's.

    Raises:
        UserError: If there is no cache folder.
    """
    motion = MotionCache(folder)
    entries = motion.entries()
    if clear:
        motion.remove_abandoned()
        removed = motion.remove(entries)
        print(f"removed {_total(removed)} from {motion.folder}")
        kept = [entry for entry in entries if entry not in removed]
        if kept:
            print(f"kept {_total(kept)}, in use or not removable")
        return
    for entry in entries:
        print(f"{_mib(entry.size)}  {datetime.fromtimestamp(entry.used):%Y-%m-%d %H:%M}  {entry.clip}")
    print(f"{_total(entries)} in {motion.folder}; the limit is {cache_limit():g} GiB")


def _total(entries: Sequence[Entry]) -> str:
    counted = "1 entry" if len(entries) == 1 else f"{len(entries)} entries"
    return f"{counted} of {_mib(sum(entry.size for entry in entries)).strip()}"


def _mib(size: int) -> str:
    return f"{size / 2**20:9.1f} MiB"


COMMAND = Command(DETAIL, cache)
