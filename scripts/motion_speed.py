"""Print how fast the objects of a sweep move against those of their clips: 1 as fast, less for slow motion.

Usage: ``python scripts/motion_speed.py EXPERIMENT SWEEP_FOLDER``, for an experiment with toy jobs. Speed is the mean
distance of the object's centre from frame to frame, where it is seen in both.
"""

from math import isnan
from pathlib import Path
from statistics import median

from jaxtyping import Float
from jsonargparse import auto_cli
from torch import Tensor

from fastvmt_pl.clips import read_clip
from fastvmt_pl.clips.video_writing import to_frames
from fastvmt_pl.errors import UserError
from fastvmt_pl.evaluation.bootstrap import interval_of_mean
from fastvmt_pl.experiments.experiment import ToyClips, read_experiment
from fastvmt_pl.files.names import words
from fastvmt_pl.toy.toy_jobs import toy_jobs
from fastvmt_pl.toy.toy_tracker import centroids, colour_mask
from fastvmt_pl.toy.toy_world import NUM_FRAMES, SIZE


def speed(path: Float[Tensor, "frames 2"]) -> float:
    """Return the mean distance from frame to frame, in pixels."""
    return float(path.diff(dim=0).norm(dim=1).nanmean())


def main(experiment: Path, folder: Path) -> None:
    """Print a row for each setting.

    Args:
        experiment: The experiment's YAML file.
        folder: The sweep's folder.
    """
    plan = read_experiment(experiment)
    if not isinstance(plan.jobs, ToyClips):
        raise UserError(f"{experiment} has clips of its own, whose paths are not known; use one with toy jobs")
    print("| setting | speed, as a multiple of the clip's | median |\n| --- | --- | ---: |")
    jobs = list(toy_jobs(**vars(plan.jobs)))
    for setting in plan.all_settings:
        ratios = []
        for number, job in enumerate(jobs):
            (video,) = (folder / "jobs").glob(f"{words(setting)}-??????-{number:03d}/output.mp4")
            frames = to_frames(read_clip(video, NUM_FRAMES).to_video((SIZE, SIZE)))[0]
            found = speed(centroids(colour_mask(frames, job.item.colour)))
            if not isnan(found):  # there is an object
                ratios.append(found / speed(job.truth))
        shown = "{:.2f} [{:.2f}, {:.2f}]".format(*interval_of_mean(ratios))
        print(f"| {setting} | {shown} | {median(ratios):.2f} |", flush=True)


if __name__ == "__main__":
    auto_cli(main, as_positional=True)
