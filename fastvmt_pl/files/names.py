"""File names made from texts."""

import re
from hashlib import sha256


def slug(*parts: str) -> str:
    """Return a file name made from texts; different texts give different names.

    The name ends with a hash, unless all texts consist of lower-case letters and digits. The second may have spaces.

    >>> slug("clip", "a red circle", "0")
    'clip-a-red-circle-0'
    >>> slug("clip", "A red circle!", "0")
    'clip-a-red-circle-0-b6cb4e'
    """
    name = words(*parts)
    plain = [part.replace(" ", "-") if number == 1 else part for number, part in enumerate(parts)]
    if name == "-".join(plain) and not any("-" in part for part in parts):
        return name
    digest = sha256("\0".join(parts).encode()).hexdigest()[:6]
    return f"{name}-{digest}" if name else digest


def words(*parts: str) -> str:
    """Return the letters and digits of texts, shortened, as a part of a file name.

    >>> words("clip 1", "A red circle!")
    'clip-1-a-red-circle'
    """
    found = (re.sub(r"\W+", "-", part.lower()).strip("-")[:40] for part in parts)
    # A file name has at most 255 bytes; a letter has up to four.
    return "-".join(part.encode()[:80].decode(errors="ignore").rstrip("-") for part in found if part)
