"""Find the pairs of reference and video to compare: two files, run folders, or the rows of a table."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from fastvmt_pl.errors import UserError
from fastvmt_pl.evaluation.finished_runs import find_runs
from fastvmt_pl.files.tables import Row, path_in_table, read_rows

TABLES = (".csv", ".tsv", ".jsonl")
NEEDED = ("reference", "output")


@dataclass(frozen=True)
class PairFiles:
    """The files of a pair.

    Attributes:
        reference: The reference.
        output: The video.
        baseline: A video of the same prompt without the reference.
        prompt: The video's prompt.
    """

    reference: Path
    output: Path
    baseline: Path | None = None
    prompt: str | None = None


def find_pairs(inputs: Sequence[str]) -> tuple[list[PairFiles], list[str]]:
    """Return the pairs that the arguments name, each once.

    Args:
        inputs: A reference and a video; or run folders and tables.

    Returns:
        The pairs, and the problems with tables, rows and folders.

    Raises:
        UserError: If an argument is something else, or no pair is found.
    """
    paths = [Path(path) for path in inputs]
    if len(paths) == 2 and not (paths[1].is_dir() or any(path.suffix.lower() in TABLES for path in paths)):
        return [PairFiles(paths[0], paths[1])], []
    for path in paths:
        if path.suffix.lower() not in TABLES and not path.is_dir():
            raise UserError(f"{path} is no folder and no table; give a reference and a video, run folders, or tables")
    pairs, problems = list[PairFiles](), list[str]()
    for path in paths:
        found, wrong = _pairs_of_table(path) if path.suffix.lower() in TABLES else _pairs_of_runs(path)
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
    """Read a table; its paths are relative to its folder."""
    try:
        rows = list(read_rows(path, NEEDED, _check_names))
    except UserError as error:
        return [], [f"table {error}"]
    pairs, problems = list[PairFiles](), [] if rows else [f"table {path} is empty; give one row for each pair"]
    for number, row in enumerate(rows, 1):
        try:
            pairs.append(_pair_of_row(row, path.parent))
        except UserError as error:
            problems.append(f"row {number} of {path}: {error}")
    return pairs, problems


def _check_names(names: Sequence[str]) -> None:
    known = [field.name for field in fields(PairFiles)]
    if not set(names) <= set(known):
        raise UserError(f"a pair has {', '.join(names)}; it has reference and output, and may have baseline and prompt")


def _pair_of_row(row: Row | UserError, folder: Path) -> PairFiles:
    if isinstance(row, UserError):
        raise row
    given = {name: value for name, value in row.items() if value}
    if not set(NEEDED) <= set(given):
        raise UserError(f"a pair has {', '.join(given) or 'nothing'}; give reference and output")
    _check_names(list(given))
    wrong = next((name for name, value in given.items() if not isinstance(value, str)), None)
    if wrong is not None:
        raise UserError(f"{wrong} is {given[wrong]!r}; give a text")
    files: dict[str, Any] = {
        name: value if name == "prompt" else path_in_table(value, folder) for name, value in given.items()
    }
    return PairFiles(**files)
