"""Which references and videos are to be compared: of two files, of run folders, or of a table."""

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from fastvmt_pl.errors import UserError
from fastvmt_pl.runs import find_runs

TABLES = (".csv", ".jsonl")


@dataclass(frozen=True)
class PairFiles:
    """The files of a pair.

    Attributes:
        reference: The reference.
        output: The video.
        baseline: A video of the same prompt that knows nothing of the reference.
        prompt: What the video is to show.
    """

    reference: Path
    output: Path
    baseline: Path | None = None
    prompt: str | None = None


def find_pairs(inputs: Sequence[str]) -> tuple[list[PairFiles], list[str]]:
    """Return the pairs that some arguments stand for, each once: a reference and a video, or run folders and tables.

    Returns:
        The pairs, and what is wrong with tables, their rows and folders.

    Raises:
        ValueError: If an argument is none of that, or no pair is found.
    """
    paths = [Path(path) for path in inputs]
    if len(paths) == 2 and not (paths[1].is_dir() or any(path.suffix in TABLES for path in paths)):
        return [PairFiles(paths[0], paths[1])], []
    for path in paths:
        if path.suffix not in TABLES and not path.is_dir():
            raise UserError(f"{path} is no folder and no table; give a reference and a video, run folders, or tables")
    pairs, problems = list[PairFiles](), list[str]()
    for path in paths:
        found, wrong = _pairs_of_table(path) if path.suffix in TABLES else _pairs_of_runs(path)
        pairs += found
        problems += wrong
    if not pairs:
        raise UserError("; ".join(problems))
    return list(dict.fromkeys(pairs)), problems


def _pairs_of_runs(folder: Path) -> tuple[list[PairFiles], list[str]]:
    runs, problems = find_runs([folder])
    pairs = []
    for run in runs:
        for job, place in zip(run.metrics["jobs"], run.job_folders, strict=True):
            baseline = place / "baseline.mp4"
            files = place / "reference.mp4", place / "output.mp4"
            pairs.append(PairFiles(*files, baseline if baseline.exists() else None, job["prompt"]))
    return pairs, problems


def _pairs_of_table(path: Path) -> tuple[list[PairFiles], list[str]]:
    """Read a table; its paths are relative to its own folder."""
    rows: list[Any]
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file)) if path.suffix == ".csv" else [line for line in file if line.strip()]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        return [], [f"table {path} cannot be read ({error})"]
    pairs, problems = list[PairFiles](), [] if rows else [f"table {path} is empty; give a row a pair"]
    for number, row in enumerate(rows, 1):
        try:
            pairs.append(_pair_of_row(path, number, row))
        except ValueError as error:
            problems.append(str(error))
    return pairs, problems


def _pair_of_row(path: Path, number: int, row: Any) -> PairFiles:
    """Return the pair of a row of a CSV file, or of a line of JSON."""
    try:
        row = json.loads(row) if isinstance(row, str) else row
    except json.JSONDecodeError as error:
        raise UserError(f"row {number} of {path} is no JSON ({error}); give an object a line") from error
    known = [field.name for field in fields(PairFiles)]
    given = {name: value for name, value in row.items() if value} if isinstance(row, dict) else {}
    texts = all(isinstance(value, str) for value in given.values())
    if not texts or not {"reference", "output"} <= set(given) <= set(known):
        raise UserError(
            f"row {number} of {path} has {', '.join(map(str, given)) or 'nothing'}; "
            "it needs reference and output, and may have baseline and prompt"
        )
    return PairFiles(**{name: value if name == "prompt" else path.parent / value for name, value in given.items()})
