"""Write one web page about finished transfers."""

from pathlib import Path

from fastvmt_pl.errors import UserError
from fastvmt_pl.evaluation.finished_runs import find_runs
from fastvmt_pl.files.atomic import write_text
from fastvmt_pl.report.page import render
from fastvmt_pl.report.reported_videos import Track, collect


def report(
    runs: list[Path], output: Path = Path("report.html"), title: str = "Motion transfer", track: Track = iter
) -> list[str]:
    """Write one self-contained web page about finished transfers: videos in step, motion, curves and scores.

    Args:
        runs: Folders of runs, or folders that hold such folders.
        output: HTML file; an existing one is replaced.
        title: Title of the page.
        track: Yields the jobs one after the other, and may show how far it is.

    Returns:
        Why jobs or runs are not on the page.

    Raises:
        UserError: If no job can be read.
    """
    found, problems = find_runs(runs)
    jobs, unread = collect(found, track)
    problems += unread
    if not jobs:
        raise UserError(f"no job can be shown: {'; '.join(problems[:3])}")
    page = render(jobs, title)
    write_text(output, page)
    return problems
