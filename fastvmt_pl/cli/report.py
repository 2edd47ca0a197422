"""``fastvmt report``."""

import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from fastvmt_pl.cli.words import Command
from fastvmt_pl.errors import one_line
from fastvmt_pl.report.report_run import report

DETAIL = """One file that needs no network: videos side by side in step, with tracks and flow over them, curves of loss
and gradients, and a table of scores, times, memory and the settings that differ.

Example: fastvmt report runs/a runs/b --output report.html"""


def run(output: Path, **options: Any) -> None:
    """Report, and say where the page is.

    Raises:
        RuntimeError: If some jobs are not on it.
    """
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        problems = report(output=output, **options, track=lambda jobs: progress.track(jobs, description="reading"))
    print(f"the report is in {output}")
    for problem in problems:
        print(f"not shown: {one_line(problem)}", file=sys.stderr)
    if problems:
        reasons = "; ".join(problems[:3])
        raise RuntimeError(f"{output} lacks what could not be read of {len(problems)} jobs or runs: {reasons}")


COMMAND = Command(DETAIL, report, run, frozenset({"track"}))
