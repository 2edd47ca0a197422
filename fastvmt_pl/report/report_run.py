"""``fastvmt report``: one web page about finished transfers."""

import sys
from pathlib import Path

from fastvmt_pl.errors import UserError, one_line
from fastvmt_pl.evaluation.finished_runs import find_runs
from fastvmt_pl.files.atomic import written_whole
from fastvmt_pl.report.page import render
from fastvmt_pl.report.report_jobs import collect


def report(runs: list[Path], output: Path = Path("report.html"), title: str = "Motion transfer") -> Path:
    """Write a self-contained web page about finished transfers: synchronised videos, motion, curves and scores.

    Args:
        runs: Folders of runs, or folders that hold such folders.
        output: HTML file; an existing one is replaced.
        title: Title of the page.

    Returns:
        The file.

    Raises:
        UserError: If no job can be read.
        RuntimeError: If some jobs cannot be read; the page shows the others.
    """
    found, problems = find_runs(runs)
    jobs, unread = collect(found)
    problems += unread
    if not jobs:
        raise UserError(f"no job can be shown: {'; '.join(problems[:3])}")
    page = render(jobs, title)
    with written_whole(output) as path:
        path.write_text(page, encoding="utf-8")
    print(f"the report is in {output}")
    for problem in problems:
        print(f"not shown: {one_line(problem)}", file=sys.stderr)
    if problems:
        reasons = "; ".join(problems[:3])
        raise RuntimeError(f"{output} lacks what could not be read of {len(problems)} jobs or runs: {reasons}")
    return output
