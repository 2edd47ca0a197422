"""Measure motion transfer on the toy world, where every true path is known, and what each part of it adds.

Usage: ``python scripts/evaluate_transfer.py``. Prints, as Markdown, the scores of jobs that neither training nor tuning
saw: a clip of one moving object, and a prompt for another shape, colour and background. With ``--settings`` it runs
some rows only, and with ``--split tuning`` the jobs that the shipped settings were chosen on.
"""

import json
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from jsonargparse import ArgumentParser, auto_cli
from lightning import Trainer
from torch import Tensor

from fastvmt_pl.backbones.wan import Precision
from fastvmt_pl.callbacks import GradientCache
from fastvmt_pl.datamodules import Clip, MotionDataModule, ToyClip, ToyWorld
from fastvmt_pl.datamodules.toy_tracker import ToyScore, score
from fastvmt_pl.datamodules.toy_world import FPS, Appearance, combinations, prompt_for
from fastvmt_pl.measure import motion_of
from fastvmt_pl.metrics import MotionFlowLoss, WindowLoss
from fastvmt_pl.motion import MotionSettings
from fastvmt_pl.motion_transfer import MotionTransfer

SEEDS = {"tuning": 100, "test": 101}
MOVING = ("linear", "arc", "sine", "bounce")
CONFIG = Path(__file__).parent.parent / "configs" / "wan_tiny.yaml"

SHARES = ("present", "one_piece", "background", "leak_free")

Overrides = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """A row of the table: what it changes of the shipped config."""

    model: Overrides = field(default_factory=dict)
    data: Overrides = field(default_factory=dict)
    motion: Overrides = field(default_factory=dict)
    interval: int | None = None


SETTINGS = {
    "shipped": Setting(),
    "no window (global)": Setting(motion={"window": None}),
    "no window loss": Setting(model={"losses": [MotionFlowLoss()]}),
    "no reuse": Setting(interval=1),
    "weights zero": Setting(model={"losses": [MotionFlowLoss(weight=0.0), WindowLoss(weight=0.0)]}),
}


@dataclass(frozen=True)
class Job:
    """A reference clip, and what the prompt asks for."""

    clip: ToyClip
    item: Appearance
    background: str

    @property
    def prompt(self) -> str:
        """The prompt."""
        return prompt_for([self.item], self.background)


@dataclass(frozen=True)
class Outcome:
    """What a setting made of the jobs."""

    scores: list[ToyScore]
    unguided: list[ToyScore]
    flow_errors: list[float]
    unguided_flow_errors: list[float]
    seconds: float
    num_gradients: float


def toy_jobs(num_jobs: int, split: str, **world: Any) -> list[Job]:
    """Return jobs whose prompts are combinations that training never saw, other than the clip's in all three words."""
    clips, jobs = ToyWorld(SEEDS[split], **world), []
    for index in range(num_jobs):
        clip, draw = clips[index], random.Random(f"{split}/{index}")
        others = [
            (item, background)
            for item, background in combinations(held_out=True)
            if background != clip.background
            and all(item.colour != old.colour and item.shape != old.shape for old in clip.objects)
        ]
        jobs.append(Job(clip, *draw.choice(others)))
    return jobs


def read_config(path: Path, dtype: Precision) -> tuple[MotionTransfer, Overrides, Overrides, int]:
    """Return the module, the arguments of the datamodule and of its motion, and the reuse interval of a config."""
    parser = ArgumentParser()
    parser.add_class_arguments(MotionTransfer, "model")
    parser.add_argument("--data", type=dict)
    parser.add_argument("--trainer", type=dict)
    config = parser.parse_path(path)
    config.model.backbone.init_args.dtype = dtype
    data = dict(config.data)
    motion = data.pop("motion")
    caches = [c for c in config.trainer["callbacks"] if c["class_path"].endswith("GradientCache")]
    return parser.instantiate_classes(config).model, data, motion, caches[0]["init_args"]["interval"]


def run(
    jobs: Sequence[Job], setting: Setting, config: Path, batch_size: int, baseline: bool, dtype: Precision
) -> Outcome:
    """Transfer every job's motion and score the videos."""
    starts = range(0, len(jobs), batch_size)
    parts = [_run_batch(jobs[start : start + batch_size], start, setting, config, baseline, dtype) for start in starts]
    return Outcome(
        scores=[score for part in parts for score in part.scores],
        unguided=[score for part in parts for score in part.unguided],
        flow_errors=[error for part in parts for error in part.flow_errors],
        unguided_flow_errors=[error for part in parts for error in part.unguided_flow_errors],
        seconds=sum(part.seconds for part in parts) / len(jobs),
        num_gradients=parts[0].num_gradients,
    )


def _run_batch(
    jobs: Sequence[Job], start: int, setting: Setting, config: Path, baseline: bool, dtype: Precision
) -> Outcome:
    module, data, motion, interval = read_config(config, dtype)
    for name, value in {**setting.model, "baseline": baseline}.items():
        setattr(module, name, value)
    clips = [Clip(job.clip.frames, FPS, f"toy clip {start + i}") for i, job in enumerate(jobs)]
    datamodule = MotionDataModule(
        clips,
        [job.prompt for job in jobs],
        **{"seed": start, **data, **setting.data},
        motion=MotionSettings(**{**motion, **setting.motion, "tile": tuple(motion["tile"])}),
    )
    cache = GradientCache(interval if setting.interval is None else setting.interval)
    trainer = Trainer(
        accelerator="auto",
        devices=1,
        max_epochs=module.num_guided_steps,
        callbacks=[cache],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    begun = time.perf_counter()
    trainer.fit(module, datamodule)
    seconds = time.perf_counter() - begun
    result = module.result
    assert result is not None
    videos = [datamodule.jobs.reference, result.latents]
    if module.baseline_latents is not None:
        videos.append(module.baseline_latents)
    reference, guided, *plain = (motion_of(module.backbone, video, datamodule.motion).flow for video in videos)
    return Outcome(
        [_score(frames, job) for frames, job in zip(result.frames, jobs, strict=True)],
        [] if result.baseline is None else [_score(f, j) for f, j in zip(result.baseline, jobs, strict=True)],
        (guided - reference).norm(dim=-1).mean((1, 2)).tolist(),
        [error for flow in plain for error in (flow - reference).norm(dim=-1).mean((1, 2)).tolist()],
        seconds,
        cache.num_computed,
    )


def _score(frames: Tensor, job: Job) -> ToyScore:
    return score(frames, job.item, job.background, job.clip.trajectories[0], job.clip.objects[0].colour)


def interval_of_mean(values: Tensor, num_resamples: int = 10_000) -> tuple[float, float, float]:
    """Return the mean and its 95 % bootstrap interval."""
    draws = torch.randint(len(values), (num_resamples, len(values)), generator=torch.Generator().manual_seed(0))
    means = values[draws].mean(1)
    return float(values.mean()), *(float(means.quantile(q)) for q in (0.025, 0.975))


def _row(name: str, scores: list[ToyScore], rest: Sequence[str]) -> str:
    error = "{:.3f} [{:.3f}, {:.3f}]".format(*interval_of_mean(torch.tensor([s.path_error for s in scores])))
    shares = [sum(getattr(score, share) for score in scores) / len(scores) for share in SHARES]
    return "| " + " | ".join([name, error, *(f"{share:.1%}" for share in shares), *rest]) + " |"


def main(
    num_jobs: int = 48,
    split: Literal["test", "tuning"] = "test",
    settings: Sequence[str] = tuple(SETTINGS),
    other_clips: bool = True,
    config: Path = CONFIG,
    batch_size: int = 16,
    dtype: Precision = "float32",
    results: Path | None = None,
) -> None:
    """Run the settings over the jobs and print the tables.

    Args:
        num_jobs: Jobs a setting.
        split: Jobs that nothing was chosen on, or those for tuning.
        settings: Names of the rows to run; the first is what the others are compared with.
        other_clips: Also score clips with a moving camera alone and clips of two objects, by the error of their flow.
        config: Config of the shipped row.
        batch_size: Jobs at a time; changes nothing but speed and memory.
        dtype: Precision of the transformer.
        results: JSON file for every job's scores.
    """
    jobs = toy_jobs(num_jobs, split, num_objects=1, camera=False, paths=MOVING)
    columns = ["setting", "relative path error", *SHARES, "s a job", "gradients", "less the first"]
    print(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    first: Outcome | None = None
    kept = {}
    for name in settings:
        outcome = run(jobs, SETTINGS[name], config, batch_size, first is None, dtype)
        if first is None:
            first = outcome
            print(_row("unguided", outcome.unguided, ["", "0", ""]))
        errors, compared = (torch.tensor([s.path_error for s in o.scores]) for o in (outcome, first))
        less = "" if outcome is first else "{:+.3f} [{:+.3f}, {:+.3f}]".format(*interval_of_mean(errors - compared))
        print(_row(name, outcome.scores, [f"{outcome.seconds:.1f}", str(outcome.num_gradients), less]), flush=True)
        kept[name] = [vars(s) for s in outcome.scores]
        if results is not None:
            results.write_text(json.dumps(kept, indent=1))
    if other_clips:
        print("\n| clips | flow error guided | flow error unguided |\n| --- | --- | --- |")
        for name, world in (
            ("camera only", {"num_objects": 1, "camera": True, "paths": ("still",)}),
            ("two objects", {"num_objects": 2, "camera": False, "paths": MOVING}),
        ):
            outcome = run(toy_jobs(16, split, **world), SETTINGS[settings[0]], config, batch_size, True, dtype)
            pair = (outcome.flow_errors, outcome.unguided_flow_errors)
            cells = ["{:.3f} [{:.3f}, {:.3f}]".format(*interval_of_mean(torch.tensor(x))) for x in pair]
            print(f"| {name} | {cells[0]} | {cells[1]} |", flush=True)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
