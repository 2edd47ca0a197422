"""Part e: whole jobs on the bundled model, with and without each part of the method."""

import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from measure import now, table
from subject import PROMPT

from fastvmt_pl.callbacks import GradientCache
from fastvmt_pl.clips.video_writing import write_video
from fastvmt_pl.runs.composition import compose
from fastvmt_pl.runs.lightning_cli import TransferCLI
from fastvmt_pl.runs.options import default_config, parse_device
from fastvmt_pl.runs.settings import merged, read_config
from fastvmt_pl.toy.toy_world import NUM_FRAMES, ToyWorld

FLOW_LOSS = {"class_path": "fastvmt_pl.objectives.MotionFlowLoss"}
WINDOW_LOSS = {"class_path": "fastvmt_pl.objectives.WindowLoss", "init_args": {"window": 7}}


def reuse_every(interval: int) -> dict[str, Any]:
    """Return the setting that computes one gradient in so many steps."""
    cache = {"class_path": "fastvmt_pl.callbacks.GradientCache", "init_args": {"interval": interval}}
    return {"trainer.callbacks": [cache]}


WITHOUT: dict[str, dict[str, Any]] = {
    "everything": {},
    "global AMF, no window": {"data.motion.window": None, "model.losses": [FLOW_LOSS, WINDOW_LOSS]},
    "no window loss": {"model.losses": [FLOW_LOSS]},
    "no reuse (interval 1)": reuse_every(1),
    "no motion guidance": {"model.num_guided_steps": 0},
}
"""Settings that take each part away. Without windows the window loss keeps the size of its own."""


class StepTimer(Callback):
    """Notes when each batch starts."""

    def __init__(self) -> None:
        self.starts: list[tuple[int, float]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Note the time."""
        self.starts.append((batch_idx, time.perf_counter()))

    def median_step(self) -> float:
        """Return the median time from one batch to the next, in seconds, after each epoch's first."""
        pairs = pairwise(self.starts)
        return median(end - begin for (number, begin), (following, end) in pairs if 0 < number < following)

    def median_epoch(self) -> float:
        """Return the median time from one epoch to the next, in seconds."""
        begins = [begin for number, begin in self.starts if number == 0]
        return median(end - begin for begin, end in pairwise(begins))


def toy_clip(folder: Path, num_frames: int = NUM_FRAMES) -> Path:
    """Write a clip of one moving object, whose frames are repeated if there are to be more than it has."""
    path = folder / f"clip-{num_frames}.mp4"
    if not path.exists():
        frames = ToyWorld(seed=5, num_objects=1, camera=False)[0].frames
        write_video(path, frames[torch.arange(num_frames) * NUM_FRAMES // num_frames], 8.0)
    return path


def compose_job(model: str, clip: Path, cache: Path, device: str, settings: Mapping[str, Any]) -> TransferCLI:
    """Compose a job from the shipped config that fits a model, without a baseline and without output."""
    own = {
        "model.backbone.init_args.model": model,
        "model.baseline": False,
        "data.clips": [str(clip)],
        "data.prompts": [PROMPT],
        "data.cache_dir": str(cache),
        **parse_device(device),
    }
    return compose(merged(read_config(default_config(model)), {**own, **settings}))


def run_job(clip: Path, cache: Path, device: str, settings: Mapping[str, Any]) -> tuple[float, int, int]:
    """Run a whole job, reading the weights and extracting the motion included.

    Returns:
        Seconds, and how many gradients were computed and reused.
    """
    begun = now(device)
    cli = compose_job("wan-tiny", clip, cache, device, settings)
    cli.trainer.fit(cli.model, cli.datamodule)
    seconds = now(device) - begun
    (gradients,) = (callback for callback in cli.trainer.callbacks if isinstance(callback, GradientCache))
    return seconds, round(gradients.num_computed), round(gradients.num_reused)


def part_e(scratch: Path, device: str, repeats: int) -> str:
    """Compare whole jobs, in turn, each with a cache of its own so that all of them extract."""
    clip = toy_clip(scratch)
    runs: dict[str, list[tuple[float, int, int]]] = {name: [] for name in WITHOUT}
    run_job(clip, scratch / "warm", device, WITHOUT["no motion guidance"])
    for repeat in range(repeats):
        for name, settings in WITHOUT.items():
            runs[name].append(run_job(clip, scratch / f"{name} {repeat}", device, settings))
    seconds = {name: median(run[0] for run in done) for name, done in runs.items()}
    rows = [
        [name, f"{seconds[name]:.1f}", f"{seconds[name] / seconds['everything']:.2f}", str(done[0][1]), str(done[0][2])]
        for name, done in runs.items()
    ]
    return table(["e. Whole job, wan-tiny", "seconds", "ratio", "gradients computed", "reused"], rows)
