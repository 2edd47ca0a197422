"""``fastvmt evaluate``."""

import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from fastvmt_pl.cli.words import Command
from fastvmt_pl.errors import one_line
from fastvmt_pl.evaluation.evaluating import evaluate, table

DETAIL = """Takes a reference and a video, or run folders and tables (CSV, TSV or JSONL with reference and output, and
if wanted baseline and prompt); prints a table and writes JSON. A reference may be a folder of numbered pictures, with
--fps. Pairs that cannot be read are named, and the exit code is 1. Videos are compared by the clock, from their
beginnings to the shorter's end, at the lower of their rates; the middle of the reference is cropped to the video's
shape.

Example: fastvmt evaluate clip.mp4 output.mp4

Example: fastvmt evaluate runs/a runs/b --output scores.json"""


def run(output: Path, **options: Any) -> None:
    """Evaluate, and print the scores.

    Raises:
        RuntimeError: If some pairs could not be scored; the others are.
    """
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        found = evaluate(output=output, **options, track=lambda pairs: progress.track(pairs, description="scoring"))
    print(table(found.results))
    print(f"\nthe scores are in {output}")
    for problem in found.problems:
        print(f"left out: {one_line(problem)}", file=sys.stderr)
    if found.problems:
        reasons = "; ".join(found.problems[:3])
        raise RuntimeError(f"{len(found.problems)} of {found.num_pairs} pairs could not be scored: {reasons}")


COMMAND = Command(DETAIL, evaluate, run, frozenset({"track"}))
