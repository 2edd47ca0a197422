"""Draw what a sweep found: a score of every setting over what it costs, and compare curves where they cost the same.

Usage: ``python scripts/plot_sweep.py runs/reuse/results.csv docs/reuse.png``. Settings whose names begin with the same
word are one curve: ``every 2nd`` and ``every 3rd``, ``adaptive, 0.5`` and ``adaptive, 0.9``.
"""

import csv
from itertools import pairwise
from pathlib import Path
from statistics import fmean

from jsonargparse import auto_cli
from matplotlib import pyplot

from fastvmt_pl.evaluation.bootstrap import interval_of_mean
from fastvmt_pl.files.atomic import written_whole


class Setting:
    """A setting's jobs.

    Args:
        name: Its name.

    Attributes:
        costs: Cost of each job.
        scores: Score of each job.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.costs: dict[str, float] = {}
        self.scores: dict[str, float] = {}

    @property
    def curve(self) -> str:
        """The curve that it belongs to."""
        return self.name.replace(",", " ").split()[0]

    @property
    def cost(self) -> float:
        """The mean cost."""
        return fmean(self.costs.values())


def read(results: Path, score: str, cost: str) -> list[Setting]:
    """Return the settings of a sweep in order of their costs.

    Raises:
        ValueError: If a column is not there.
    """
    found: dict[str, Setting] = {}
    with results.open(newline="") as file:
        rows = csv.DictReader(file)
        columns = rows.fieldnames or []
        if not {score, cost} <= set(columns):
            raise ValueError(f"{results} has no {score} or no {cost}; use two of {', '.join(columns)}")
        for row in rows:
            if row[score] and row[cost]:
                setting = found.setdefault(row["setting"], Setting(row["setting"]))
                setting.costs[row["job"]], setting.scores[row["job"]] = float(row[cost]), float(row[score])
    return sorted(found.values(), key=lambda setting: setting.cost)


def less_than_curve(setting: Setting, curve: list[Setting]) -> list[float] | None:
    """Return each job's score less the curve's at the setting's mean cost, between the two nearest settings.

    Args:
        setting: What is compared.
        curve: Settings in order of their costs.

    Returns:
        The differences; ``None`` if the curve does not reach there.
    """
    for low, high in pairwise(curve):
        if low.cost <= setting.cost <= high.cost:
            share = (setting.cost - low.cost) / (high.cost - low.cost) if high.cost > low.cost else 0.5
            jobs = setting.scores.keys() & low.scores.keys() & high.scores.keys()
            between = {job: (1 - share) * low.scores[job] + share * high.scores[job] for job in jobs}
            return [setting.scores[job] - between[job] for job in sorted(jobs)]
    return None


def draw(settings: list[Setting], output: Path, score: str, cost: str) -> None:
    """Draw the means with their 95 % bootstrap intervals."""
    figure, axes = pyplot.subplots(figsize=(6.4, 4.0), layout="constrained")
    axes.margins(x=0.1)  # room for names
    for name in dict.fromkeys(setting.curve for setting in settings):
        curve = [setting for setting in settings if setting.curve == name]
        means, lows, highs = zip(*(interval_of_mean(list(each.scores.values())) for each in curve), strict=True)
        bars = [
            [m - low for m, low in zip(means, lows, strict=True)],
            [h - m for m, h in zip(means, highs, strict=True)],
        ]
        costs = [setting.cost for setting in curve]
        axes.errorbar(costs, means, bars, marker="o", capsize=3, label=name)
        for setting, x, y in zip(curve, costs, means, strict=True):
            label = setting.name.removeprefix(name).lstrip(", ")
            axes.annotate(label, (x, y), textcoords="offset points", xytext=(2, 4), fontsize="small", rotation=50)
    axes.set(xlabel=f"{cost.replace('_', ' ')}, mean of jobs", ylabel=f"{score.replace('_', ' ')}, mean of jobs")
    axes.grid(alpha=0.3)
    axes.legend()
    with written_whole(output) as path:
        figure.savefig(path)


def main(
    results: Path,
    output: Path,
    score: str = "path_error",
    cost: str = "gradients_computed",
    compare_with: str | None = None,
) -> None:
    """Draw the curves, and print how far one of them is from the others at equal cost, job by job.

    Args:
        results: The ``results.csv`` of a sweep.
        output: An SVG or PNG file.
        score: Column of the score.
        cost: Column of the cost.
        compare_with: Curve that settings of the others are compared with; default: none.

    Raises:
        ValueError: If a column or the curve is not there.
    """
    settings = read(results, score, cost)
    draw(settings, output, score, cost)
    if compare_with is None:
        return
    curve = [setting for setting in settings if setting.curve == compare_with]
    if not curve:
        names = ", ".join(dict.fromkeys(setting.curve for setting in settings))
        raise ValueError(f"there is no curve {compare_with!r}; use one of {names}")
    print(f"| setting | {cost} | {score} | less that of {compare_with!r} at equal {cost} |\n| --- | --- | --- | --- |")
    for setting in settings:
        less = None if setting in curve else less_than_curve(setting, curve)
        shown = "" if less is None else "{:.3f} [{:.3f}, {:.3f}]".format(*interval_of_mean(less))
        print(f"| {setting.name} | {setting.cost:.1f} | {fmean(setting.scores.values()):.3f} | {shown} |")


if __name__ == "__main__":
    auto_cli(main)
