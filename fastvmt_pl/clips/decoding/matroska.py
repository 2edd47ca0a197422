"""How large a Matroska or WebM file says it is; it does not say how many frames it has."""

from pathlib import Path
from typing import BinaryIO

HEADER = b"\x1a\x45\xdf\xa3"
SEGMENT = b"\x18\x53\x80\x67"


def stated_size(path: Path) -> int:
    """Return the bytes up to the end of the segment that holds all frames; 0 if the file does not say.

    Source: RFC 8794, sections 4 to 6.
    """
    with path.open("rb") as file:
        for name in (HEADER, SEGMENT):
            if file.read(4) != name:
                return 0
            length = _read_length(file)
            if length is None:  # a recording that was written as it went on
                return 0
            if name == HEADER:
                file.seek(length, 1)
        return file.tell() + length


def _read_length(file: BinaryIO) -> int | None:
    """Return a number of variable width, whose leading zeros count its further bytes; all ones stand for unknown."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    num_bytes = 9 - first[0].bit_length()
    marked = int.from_bytes(first + file.read(num_bytes - 1), "big")
    value = marked - (1 << 7 * num_bytes)
    return None if value == (1 << 7 * num_bytes) - 1 else value
