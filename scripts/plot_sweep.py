"""Draw what a sweep found: a score of every setting over what it costs.

Usage: ``python scripts/plot_sweep.py runs/reuse/results.csv docs/reuse.png``. Settings whose names begin with the same
word are one curve: ``every 2nd`` and ``every 3rd``, ``adaptive, 30 degrees`` and ``adaptive, 60 degrees``.
"""

import csv
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import auto_cli
from matplotlib import pyplot

from fastvmt_pl.bootstrap import interval_of_mean
from fastvmt_pl.files import written_whole


def main(results: Path, output: Path, score: str = "path_error", cost: str = "gradients_computed") -> None:
    """Draw the means with their 95 % bootstrap intervals.

    Args:
        results: The ``results.csv`` of a sweep.
        output: An SVG or PNG file.
        score: Column of the score.
        cost: Column of the cost.
    """
    with results.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row[score] and row[cost]]
    curves: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for row in rows:
        kind = row["setting"].replace(",", " ").split()[0]
        curves.setdefault(kind, {}).setdefault(row["setting"], []).append((float(row[cost]), float(row[score])))
    figure, axes = pyplot.subplots(figsize=(6.4, 4.0), layout="constrained")
    for kind, settings in curves.items():
        points = {name.removeprefix(kind).lstrip(", "): _point(values) for name, values in settings.items()}
        x, y, below, above = zip(*sorted(points.values()), strict=True)
        axes.errorbar(x, y, (below, above), marker="o", capsize=3, label=kind)
        for name, (across, up, *_) in points.items():
            axes.annotate(name, (across, up), textcoords="offset points", xytext=(5, 5), fontsize="small")
    axes.set(xlabel=f"{cost.replace('_', ' ')}, mean of jobs", ylabel=f"{score.replace('_', ' ')}, mean of jobs")
    axes.grid(alpha=0.3)
    axes.legend()
    with written_whole(output) as path:
        figure.savefig(path)


def _point(values: Sequence[tuple[float, float]]) -> tuple[float, float, float, float]:
    """Return the mean cost, the mean score, and how far its interval goes below and above."""
    mean, low, high = interval_of_mean([score for _, score in values])
    return sum(cost for cost, _ in values) / len(values), mean, mean - low, high - mean


if __name__ == "__main__":
    auto_cli(main)
