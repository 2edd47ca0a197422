"""The index of a data folder, which lists its shards."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from fastvmt_pl.errors import UserError
from fastvmt_pl.files.atomic import write_text

INDEX = "index.json"


@dataclass(frozen=True)
class Shard:
    """An entry of a data folder's index.

    Attributes:
        name: Name of the tar file.
        source: Whether it holds the reference clip, or samples: guided ones or a user's videos.
        num_samples: Number of samples in it.
        num_dropped: Number of samples dropped because their motion differs from the reference's, or they were
            unreadable.
        sha256: Hash of the clip's file.
        origin: The source and settings of a shard of a user's videos.
    """

    name: str
    source: Literal["samples", "clip"]
    num_samples: int
    num_dropped: int = 0
    sha256: str | None = None
    origin: str | None = None


def read_index(folder: Path, *, missing_ok: bool = False) -> list[Shard]:
    """Return the shards listed in a data folder's index.

    Args:
        folder: The data folder.
        missing_ok: Whether to return no shards if the folder has no index.

    Raises:
        UserError: If the index is missing or invalid.
    """
    path = folder / INDEX
    if missing_ok and not path.exists():
        return []
    try:
        return [Shard(**entry) for entry in json.loads(path.read_text())["shards"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read ({error}); make a data folder with fastvmt distill or fastvmt encode"
        ) from error


def clip_sha256(shards: Sequence[Shard]) -> str | None:
    """Return the hash of the reference clip's file, if it is known."""
    return next((shard.sha256 for shard in shards if shard.source == "clip"), None)


def write_index(folder: Path, shards: Sequence[Shard]) -> None:
    """Write a data folder's index."""
    write_text(folder / INDEX, json.dumps({"shards": [asdict(shard) for shard in shards]}, indent=1) + "\n")
