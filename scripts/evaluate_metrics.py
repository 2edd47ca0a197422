"""Check the scores of fastvmt evaluate where the right answer is known, and print tables.

Usage: ``python scripts/evaluate_metrics.py [--clips FOLDER]``. On toy clips: a clip against itself, reversed, held
still and against another; and the rank correlation of each score with the true error of the path. With a folder of
clips of one's own: each against itself, reversed, held still, and against every other.
"""

import random
from collections.abc import Sequence
from pathlib import Path

import torch
from benchmark.measure import hardware
from jsonargparse import auto_cli
from torch import Tensor
from torchmetrics.functional import spearman_corrcoef

from fastvmt_pl.clips import Clip, Pair, align, read_pair
from fastvmt_pl.evaluation import DenseFlow, LucasKanade, Tracker
from fastvmt_pl.evaluation.scores import score_video
from fastvmt_pl.toy import ToyClip, ToyWorld
from fastvmt_pl.toy.toy_jobs import MOVING
from fastvmt_pl.toy.toy_tracker import relative_path_error
from fastvmt_pl.toy.toy_world import FPS, combinations, place, render

TRACKERS: dict[str, Tracker] = {"Lucas-Kanade": LucasKanade(), "DIS flow": DenseFlow()}
FIDELITIES = ("motion_fidelity", "local_motion_fidelity")
COLUMNS = [*(f"{score}, {name}" for name in TRACKERS for score in FIDELITIES), "relative_flow_error"]


def perturbed(clip: ToyClip, other: ToyClip, share: float, draw: random.Random) -> tuple[Tensor, Tensor]:
    """Return a video of another look whose object moves as a clip's, but for a share of another clip's motion.

    Returns:
        The video and its path in pixels.
    """
    own, foreign = (path - path[:1] for path in (clip.trajectories[0], other.trajectories[0]))
    path = place(draw, (1 - share) * own + share * foreign, [])
    item, background = draw.choice(
        [combo for combo in combinations(held_out=False) if combo[0].colour != clip.objects[0].colour]
    )
    return render(draw, [item], background, path[None], torch.zeros_like(path)), path


def toy_pair(clip: ToyClip, frames: Tensor) -> Pair:
    """Return a toy clip and a video, aligned."""
    return align(Clip(clip.frames, FPS, "reference"), Clip(frames, FPS, "video"))


def scores_of(pair: Pair) -> list[float]:
    """Return the scores of a pair, in the order of the columns."""
    found = [score_video(pair.reference, pair.output, tracker) for tracker in TRACKERS.values()]
    return [*(one[score] for one in found for score in FIDELITIES), found[0]["relative_flow_error"]]


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a Markdown table."""
    print(f"\n| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    for row in rows:
        print(f"| {' | '.join(row)} |", flush=True)


def variants(frames: Tensor, other: Tensor) -> dict[str, Tensor]:
    """Return a clip itself, reversed, its first frame held, and another clip."""
    return {
        "itself": frames,
        "its reverse": frames.flip(0),
        "its first frame, held": frames[:1].expand_as(frames).contiguous(),
        "another clip": other,
    }


def sanity(num_clips: int, seed: int) -> None:
    """Print the scores of toy clips against themselves, reversed, held still and against others."""
    world = ToyWorld(seed, num_objects=1, camera=False, paths=MOVING)
    found: dict[str, list[list[float]]] = {}
    for number in range(num_clips):
        clip = world[number]
        for name, frames in variants(clip.frames, world[num_clips + number].frames).items():
            pair = toy_pair(clip, frames)
            found.setdefault(name, []).append(scores_of(pair))
    means = {name: torch.tensor(rows).mean(0).tolist() for name, rows in found.items()}
    print(f"\n{num_clips} toy clips of one moving object, means.")
    print_table(["against", *COLUMNS], [[name, *(f"{x:.3f}" for x in row)] for name, row in means.items()])


def agreement(num_clips: int, seed: int) -> None:
    """Print the rank correlation of scores with the true relative path error."""
    world = ToyWorld(seed, num_objects=1, camera=False, paths=MOVING)
    errors, scores = [], []
    for number in range(num_clips):
        draw, clip = random.Random(f"agreement/{number}"), world[number]
        frames, path = perturbed(clip, world[num_clips + number], draw.random(), draw)
        pair = toy_pair(clip, frames)
        errors.append(relative_path_error(path, clip.trajectories[0]))
        scores.append(scores_of(pair))
    truth, columns = torch.tensor(errors), torch.tensor(scores).T
    print(
        f"\nRank correlation with the true relative path error, {num_clips} toy clips of another look in another place."
    )
    found = [float(spearman_corrcoef(column, truth)) for column in columns]
    print_table(["score", "Spearman"], [[name, f"{value:.3f}"] for name, value in zip(COLUMNS, found, strict=True)])


def own_clips(folder: Path) -> None:
    """Print the motion fidelity of the clips of a folder against themselves and each other."""
    tracker, paths = LucasKanade(), sorted(folder.glob("*.mp4"))
    rows, crossed = [], []
    for path in paths:
        frames = read_pair(path, path).reference
        kinds = variants(frames, frames)
        scores = [score_video(frames, kinds[name], tracker) for name in list(kinds)[:3]]
        rows.append([path.stem, *(f"{x['motion_fidelity']:.3f} ({x['local_motion_fidelity']:.3f})" for x in scores)])
        pairs = [read_pair(path, other) for other in paths]
        scores = [score_video(pair.reference, pair.output, tracker) for pair in pairs]
        crossed.append([path.stem, *(f"{x['motion_fidelity']:.3f} ({x['local_motion_fidelity']:.3f})" for x in scores)])
    print("\nClips of one's own: motion fidelity (local).")
    print_table(["clip", "itself", "its reverse", "its first frame, held"], rows)
    print_table(["clip", *(path.stem for path in paths)], crossed)


def main(num_clips: int = 100, num_sanity: int = 20, seed: int = 300, clips: Path | None = None) -> None:
    """Print the tables.

    Args:
        num_clips: Toy clips for the agreement with the truth.
        num_sanity: Toy clips for the other table.
        seed: Seed of the toy world.
        clips: Folder of mp4 files of one's own.
    """
    print(hardware("cpu"))
    sanity(num_sanity, seed)
    agreement(num_clips, seed + 1)
    if clips is not None:
        own_clips(clips)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
