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
        ValueError: If a folder holds no finished run, or no job's videos can be read.
        RuntimeError: If those of some jobs cannot be read; the others are on the page.
    """
    found = {run.folder.resolve(): run for folder in runs for run in find_runs(folder)}
    jobs, problems = collect(list(found.values()))
    if not jobs:
        raise ValueError(f"no job can be shown: {'; '.join(problems[:3])}")
    page = render(jobs, title)
    with written_whole(output) as path:
        path.write_text(page, encoding="utf-8")
    print(f"the report lies in {output}")
    if problems:
        raise RuntimeError(f"{len(problems)} jobs are left out of {output}: {'; '.join(problems[:3])}")
    return output
