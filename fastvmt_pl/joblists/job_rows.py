"""Read the rows of a job list from a table or from a tar file of clips."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from fastvmt_pl.distillation import read_videos
from fastvmt_pl.errors import UserError
from fastvmt_pl.files.atomic import written_whole
from fastvmt_pl.files.names import words
from fastvmt_pl.files.tables import read_rows, read_text, tidy_row
from fastvmt_pl.runs.old_spellings import TRANSFER
from fastvmt_pl.runs.transfer_options import TransferOptions

OWN = ("name", "clip", "prompt", "prompts", "seed")
"""Columns that are not settings."""
OPTIONS = tuple(name for name in TransferOptions.__annotations__ if name != "device")
"""Columns that set an option of the command."""


def check_names(names: Sequence[str]) -> None:
    """Raise ``UserError`` if a column is unknown or cannot be set in a job list."""
    unknown = [name for name in names if "." not in name and name not in (*OWN, *OPTIONS, *TRANSFER)]
    if unknown:
        raise UserError(f"unknown setting {unknown[0]!r}; use {', '.join((*OWN, *OPTIONS))}, or dotted names")
    taken = [name for name in ("data.clips", "data.prompts", "data.images", "data.seed") if name in names]
    if taken:
        raise UserError(f"{', '.join(taken)} cannot be set in a job list; use the columns clip, prompt, image and seed")


def rows_of_list(path: Path, clips: Path, skipped: Callable[[str], None]) -> Iterator[tuple[str, Any]]:
    """Yield the position of each row of a list with its content, or with the error of reading it.

    Args:
        path: CSV with a header, JSONL, a YAML list, or a tar file.
        clips: Folder that the clips of a tar file are unpacked to.
        skipped: Called with the reason for each entry of a tar file that cannot be used.

    Raises:
        UserError: If the list as a whole cannot be read.
    """
    if not path.is_file():
        raise UserError(f"job list {path} is not a file; check the path")
    ending = path.suffix.lower()
    if ending == ".tar":
        yield from _tar(path, clips, skipped)
    elif ending in (".csv", ".tsv", ".jsonl", ".yaml", ".yml"):
        rows = _yaml(path) if ending in (".yaml", ".yml") else read_rows(path, ("clip", "prompt"), check_names)
        for number, row in enumerate(rows, 1):
            yield f"row {number} of {path.name}", row
    else:
        raise UserError(f"job list {path} has the ending {path.suffix!r}; use .csv, .tsv, .jsonl, .yaml or .tar")


def _yaml(path: Path) -> Iterator[Any]:
    try:
        rows = yaml.safe_load(read_text(path)) or []
    except yaml.YAMLError as error:
        raise UserError(f"job list {path} cannot be read ({error}); give a YAML list") from error
    if not isinstance(rows, list):
        raise UserError(f"job list {path} is not a YAML list; begin each job with '- clip: ...'")
    for row in rows:
        try:
            yield tidy_row(row) if isinstance(row, dict) else row
        except UserError as error:
            yield error


def _tar(path: Path, clips: Path, skipped: Callable[[str], None]) -> Iterator[tuple[str, Any]]:
    for where, video, caption in read_videos([path], skipped):
        key = where.rsplit(", sample ", 1)[-1]
        name = f"{words(path.stem, key)}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"  # two keys can share words
        clip = (clips / f"{name}.mp4").resolve()
        if not clip.exists() or clip.read_bytes() != video:
            with written_whole(clip) as temporary:
                temporary.write_bytes(video)
        yield where, {"name": name, "clip": str(clip), "prompt": caption}
