"""Read texts and tables as spreadsheets, editors and other programs write them."""

import codecs
import csv
import io
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from fastvmt_pl.errors import UserError

Row = dict[str, Any]
DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab"}
MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Encodings by their byte-order marks."""


EXCELS_SEPARATOR = re.compile(r"\Asep=.\r?\n")
"""A first line that names the separator for Excel."""


def decoded(content: bytes) -> str:
    """Decode a text as UTF-8, or by its byte-order mark.

    Raises:
        ValueError: If it is in another encoding.
    """
    text = content.decode(next((name for mark, name in MARKS.items() if content.startswith(mark)), "utf-8"))
    if "\0" in text:  # as in UTF-16 without a mark
        raise ValueError("it has zero bytes")
    return text


def read_text(path: Path) -> str:
    """Return the content of a text file; see :func:`decoded`.

    Raises:
        UserError: If it cannot be read, or is in another encoding.
    """
    try:
        return decoded(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error}); check the path") from error
    except ValueError as error:
        raise UserError(f"{path} cannot be read ({error}); save it as UTF-8") from error


def lines_of(text: str) -> list[str]:
    r"""Return the lines of a text, which end with a newline, a carriage return, or both.

    ``str.splitlines`` also splits at characters that may be part of a line, such as U+2028.

    >>> lines_of("a\u2028b\r\nc\n")
    ['a\u2028b', 'c', '']
    """
    return re.split(r"\r\n|\r|\n", text)


def path_in_table(cell: str, folder: Path) -> Path:
    """Return the path in a cell: ``~`` is the home folder, and a relative path starts at the table's folder."""
    return folder / os.path.expanduser(cell)


def tidy(name: str) -> str:
    """Return a column's name in lower case and with underscores; a dotted name keeps its case.

    >>> tidy(" Guided-Steps"), tidy("model.num-steps ")
    ('guided_steps', 'model.num_steps')
    """
    return name.strip().replace("-", "_") if "." in name else re.sub(r"[\s-]+", "_", name.strip().lower())


def tidy_row(row: Row) -> Row:
    """Return a row with tidy names.

    Raises:
        UserError: If two of them are the same.
    """
    return _unique([(tidy(name) if isinstance(name, str) else name, value) for name, value in row.items()])


def read_rows(
    path: Path, needed: Sequence[str], check_names: Callable[[Sequence[str]], None]
) -> Iterator[Row | UserError]:
    """Yield the rows of a CSV file, separated by commas, semicolons or tabs, or of a JSONL file.

    Column names are tidied by :func:`tidy`. Empty cells and empty rows are skipped.

    Args:
        path: The file: JSONL if its name ends in ``.jsonl``, else CSV with a header.
        needed: Columns that the header must have.
        check_names: Raises ``UserError`` if the header has an unknown column.

    Returns:
        Each row, or what is wrong with it.

    Raises:
        UserError: If the file cannot be read, or its header cannot be used.
    """
    text = read_text(path)
    if path.suffix.lower() == ".jsonl":
        return (_json_row(line) for line in lines_of(text) if line.strip())
    return _csv_rows(path, EXCELS_SEPARATOR.sub("", text), needed, check_names)


def _json_row(line: str) -> Row | UserError:
    try:
        row = json.loads(line, object_pairs_hook=_unique)
        return tidy_row(row) if isinstance(row, dict) else UserError(f"{line.strip()[:60]} is no JSON object")
    except json.JSONDecodeError as error:
        return UserError(f"{line.strip()[:60]} is no JSON ({error}); give an object a line")
    except UserError as error:
        return error


def _unique(pairs: Sequence[tuple[Any, Any]]) -> Row:
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise UserError(f"{max(names, key=names.count)!r} is given twice; remove one")
    return row


def _csv_rows(
    path: Path, text: str, needed: Sequence[str], check_names: Callable[[Sequence[str]], None]
) -> Iterator[Row | UserError]:
    delimiter = max(DELIMITERS, key=lambda each: len(set(needed) & set(_header(text, each))))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True, strict=True)
    names: list[str] = []
    try:
        for cells in reader:
            row = [cell.strip() for cell in cells]
            if not any(row):
                continue
            if not names:
                names = [tidy(cell) for cell in row]
                _check_header(path, names, needed, check_names)
            else:
                yield _csv_row(names, row, delimiter)
    except csv.Error as error:
        raise UserError(f"{path} cannot be read at line {reader.line_num} ({error}); check its quotes") from error


def _header(text: str, delimiter: str) -> list[str]:
    """Return the tidied cells of the first row that is not empty."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    try:
        return next(([tidy(cell) for cell in row] for row in reader if any(cell.strip() for cell in row)), [])
    except csv.Error:  # another delimiter may fit; if none does, reading reports the error
        return []


def _check_header(
    path: Path, names: Sequence[str], needed: Sequence[str], check_names: Callable[[Sequence[str]], None]
) -> None:
    given = [name for name in names if name]
    missing = [name for name in needed if name not in given]
    twice = next((name for name in given if given.count(name) > 1), None)
    if missing:
        raise UserError(f"{path} has no column {missing[0]!r} but {', '.join(given)}; begin it with a row of names")
    if twice is not None:
        raise UserError(f"{path} has two columns {twice!r}; rename or remove one")
    try:
        check_names(given)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _csv_row(names: Sequence[str], cells: Sequence[str], delimiter: str) -> Row | UserError:
    padded = [*names, *[""] * (len(cells) - len(names))]
    given = {name: cell for name, cell in zip(padded, cells, strict=False) if cell}
    if "" in given:
        word = DELIMITERS[delimiter]
        return UserError(f"{given['']!r} has no column; put quotes around a text that contains a {word}")
    return given
