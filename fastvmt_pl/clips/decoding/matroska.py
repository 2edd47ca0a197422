"""The size that a Matroska or WebM file states; such files do not state their number of frames."""

from pathlib import Path
from typing import BinaryIO

HEADER = b"\x1a\x45\xdf\xa3"
SEGMENT = b"\x18\x53\x80\x67"


def stated_size(path: Path) -> int:
    """Return the stated end of the segment that holds all frames, in bytes; 0 if it is not stated.

    Source: RFC 8794, sections 4 to 6.
    """
    with path.open("rb") as file:
        header = _read_length(file, HEADER)
        if header is None:
            return 0
        file.seek(header, 1)
        segment = _read_length(file, SEGMENT)  # unknown for a recording that was written while it was made
        return 0 if segment is None else file.tell() + segment


def _read_length(file: BinaryIO, name: bytes) -> int | None:
    """Return the length of the element that starts here; ``None`` if it has another name or an unknown length.

    A length has a variable width: the leading zeros of its first byte count the bytes that follow. All ones stand for
    an unknown length.
    """
    if file.read(len(name)) != name:
        return None
    first = file.read(1)
    if not first or not first[0]:
        return None
    num_bytes = 9 - first[0].bit_length()
    marked = int.from_bytes(first + file.read(num_bytes - 1), "big")
    value = marked - (1 << 7 * num_bytes)
    return None if value == (1 << 7 * num_bytes) - 1 else value
