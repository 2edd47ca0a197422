"""``fastvmt report``: one web page about finished transfers."""

from pathlib import Path

from fastvmt_pl.commands.report_jobs import collect
from fastvmt_pl.files import written_whole
from fastvmt_pl.report.page import render
from fastvmt_pl.runs import find_runs


def report(runs: list[Path], output: Path = Path("report.html"), title: str = "Motion transfer") -> Path:
    """Write one self-contained web page about finished transfers: videos in step, motion, curves and scores.

    Args:
        runs: Folders of runs, or folders that hold such folders.
        output: HTML file; an existing one is replaced.
        title: Title of the page.

    Returns:
        The file.

    Raises:
        ValueError: If a folder holds no finished run, or a video cannot be read.
    """
    found = {run.folder.resolve(): run for folder in runs for run in find_runs(folder)}
    page = render(collect(list(found.values())), title)
    with written_whole(output) as path:
        path.write_text(page, encoding="utf-8")
    print(f"the report lies in {output}")
    return output
