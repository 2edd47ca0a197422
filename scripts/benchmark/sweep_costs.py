"""Add what each setting of a sweep costs to its results: forward passes of the transformer, against plain sampling.

Usage: ``python scripts/benchmark/sweep_costs.py configs/experiment/guidance.yaml runs/guidance/results.csv``. The
column ``cost`` is planned. It counts reading the clip, guiding and denoising, as a multiple of the experiment's config
without guidance. A pass that a step cache shortens, by the measured share of such passes, counts as none.
"""

import csv
from pathlib import Path
from statistics import fmean

from jsonargparse import auto_cli
from planned import cost

from fastvmt_pl.experiments.experiment import read_experiment
from fastvmt_pl.files.atomic import written_whole
from fastvmt_pl.method.motion_transfer import MotionTransfer
from fastvmt_pl.planning.planned_share import Share
from fastvmt_pl.planning.planning_run import PROMPT, plan_shares
from fastvmt_pl.runs.transfer_options import TransferOptions

SHARE = "step_cache_whole"
"""Column of the share of a cache's passes that ran all blocks."""


def passes_of(module: MotionTransfer) -> int:
    """Return the passes of a denoising step."""
    return 1 if module.guidance_scale == 1 else 2


def main(experiment: Path, results: Path) -> None:
    """Rewrite the results with the costs, and print them.

    Args:
        experiment: The experiment's YAML file.
        results: The ``results.csv`` of its sweep.
    """
    with results.open(newline="") as file:
        rows = list(csv.DictReader(file))
    sweep = read_experiment(experiment)
    plain = None
    for name, overrides in {"": {"model.num_guided_steps": 0}, **sweep.all_settings}.items():
        settings = {"model.baseline": False, **sweep.common, **overrides}
        share = Share(TransferOptions(config=Path(sweep.config)), settings, {Path(): [PROMPT]})
        (found,) = plan_shares([share], 1, 1.0, calibrated=False)
        module = found.module
        if plain is None:
            plain = module.num_steps * passes_of(module)
            continue
        ours = [row for row in rows if row["setting"] == name]
        whole = fmean([float(row[SHARE]) for row in ours if row.get(SHARE)] or [1.0])
        cached = 0 if module.step_cache is None else module.num_steps - module.num_guided_steps
        passes = cost(found) * module.num_steps * passes_of(module) - (1 - whole) * cached * passes_of(module)
        for row in ours:
            row["cost"] = f"{passes / plain:.3f}"
        print(f"{name}: {passes / plain:.2f}")
    with written_whole(results) as path, path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    auto_cli(main, as_positional=True)
