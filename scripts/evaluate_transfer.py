"""Measure motion transfer on the toy world, where every true path is known, and what each part of it adds.

Usage: ``python scripts/evaluate_transfer.py``. Prints, as Markdown, the scores of jobs that neither training nor tuning
saw: a clip of one moving object, and a prompt for another shape, colour and background. With ``--settings`` it runs
some rows only, and with ``--split tuning`` the jobs that the shipped settings were chosen on.
"""

import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from benchmark.measure import hardware
from jsonargparse import ArgumentParser, auto_cli
from lightning import Trainer
from torch.nn import ModuleList

from fastvmt_pl.backbones.wan import Precision
from fastvmt_pl.bootstrap import interval_of_mean
from fastvmt_pl.callbacks import GradientCache
from fastvmt_pl.datamodules import Clip, MotionDataModule
from fastvmt_pl.datamodules.toy_jobs import Split, ToyJob, toy_jobs
from fastvmt_pl.datamodules.toy_tracker import ToyScore
from fastvmt_pl.datamodules.toy_world import FPS
from fastvmt_pl.files import written_whole
from fastvmt_pl.measure import motion_of
from fastvmt_pl.metrics import MotionFlowLoss, MotionLoss, WindowLoss
from fastvmt_pl.motion import MotionSettings
from fastvmt_pl.motion_transfer import MotionTransfer

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


def with_losses(*losses: MotionLoss) -> Overrides:
    """Return the override that guides by these losses."""
    return {"losses": ModuleList(losses)}


SETTINGS = {
    "unguided": Setting(model={"num_guided_steps": 0}),
    "shipped": Setting(),
    "no window (global)": Setting(with_losses(MotionFlowLoss(), WindowLoss(window=7)), motion={"window": None}),
    "no window loss": Setting(with_losses(MotionFlowLoss())),
    "no reuse": Setting(interval=1),
    "weights zero": Setting(with_losses(MotionFlowLoss(weight=0.0), WindowLoss(weight=0.0))),
}
"""The rows by name. Without windows the window loss keeps the size of its own."""


@dataclass(frozen=True)
class Outcome:
    """What a setting made of the jobs: scores, errors of the flow in token cells, and what a job took."""

    scores: list[ToyScore]
    flow_errors: list[float]
    seconds: float
    num_gradients: float


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


def run(jobs: Sequence[ToyJob], setting: Setting, config: Path, batch_size: int, dtype: Precision) -> Outcome:
    """Transfer every job's motion and score the videos."""
    starts = range(0, len(jobs), batch_size)
    parts = [_run_batch(jobs[start : start + batch_size], start, setting, config, dtype) for start in starts]
    return Outcome(
        scores=[score for part in parts for score in part.scores],
        flow_errors=[error for part in parts for error in part.flow_errors],
        seconds=sum(part.seconds for part in parts) / len(jobs),
        num_gradients=parts[0].num_gradients,
    )


def _run_batch(jobs: Sequence[ToyJob], start: int, setting: Setting, config: Path, dtype: Precision) -> Outcome:
    module, data, motion, interval = read_config(config, dtype)
    for name, value in {**setting.model, "baseline": False}.items():
        setattr(module, name, value)
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
    with tempfile.TemporaryDirectory() as nothing_extracted:
        datamodule = MotionDataModule(
            [Clip(job.clip.frames, FPS, f"toy clip {start + i}") for i, job in enumerate(jobs)],
            [job.prompt for job in jobs],
            **{"seed": start, **data, **setting.data},
            motion=MotionSettings(**{**motion, **setting.motion, "tile": tuple(motion["tile"])}),
            cache_dir=Path(nothing_extracted),
        )
        begun = time.perf_counter()
        trainer.fit(module, datamodule)
        seconds = time.perf_counter() - begun
    result = module.result
    assert result is not None
    videos = datamodule.jobs.reference, result.latents
    reference, made = (motion_of(module.backbone, video, datamodule.motion).flow for video in videos)
    return Outcome(
        [job.judge(frames) for frames, job in zip(result.frames, jobs, strict=True)],
        (made - reference).norm(dim=-1).mean((1, 2)).tolist(),
        seconds,
        cache.num_computed,
    )


def _read(kept: dict[str, Any]) -> Outcome:
    return Outcome(**{**kept, "scores": [ToyScore(**one) for one in kept["scores"]]})


def _mean(values: Sequence[float]) -> str:
    return "{:.3f} [{:.3f}, {:.3f}]".format(*interval_of_mean(values))


def _row(name: str, outcome: Outcome, rest: Sequence[str]) -> str:
    shares = [
        "{:.1%} [{:.1%}, {:.1%}]".format(*interval_of_mean([getattr(s, share) for s in outcome.scores]))
        for share in SHARES
    ]
    return "| " + " | ".join([name, _mean([s.path_error for s in outcome.scores]), *shares, *rest]) + " |"


def main(
    num_jobs: int = 48,
    split: Split = "test",
    settings: Sequence[str] = tuple(SETTINGS),
    other_clips: bool = True,
    config: Path = CONFIG,
    batch_size: int = 16,
    dtype: Precision = "bfloat16",
    results: Path | None = None,
) -> None:
    """Run the settings over the jobs and print the tables.

    Args:
        num_jobs: Jobs a setting.
        split: Jobs that nothing was chosen on, or those for tuning.
        settings: Names of the rows to run, each compared with ``shipped`` if it comes before.
        other_clips: Also score clips with a moving camera alone and clips of two objects, by the error of their flow.
        config: Config of the shipped row.
        batch_size: Jobs at a time; changes nothing but speed and memory.
        dtype: Precision of the transformer; on a CPU, bfloat16 is about twice as fast as float32.
        results: JSON file for every job's scores; rows that it holds already are not run again.
    """
    jobs = toy_jobs(num_jobs, split)
    machine = hardware("cuda" if torch.cuda.is_available() else "cpu")
    print(f"{num_jobs} {split} jobs, transformer in {dtype}, batches of {batch_size}; {machine}.\n")
    columns = ["setting", "relative path error", *SHARES, "s a job", "gradients", "path error less shipped"]
    print(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}")
    errors: dict[str, list[float]] = {}
    kept = json.loads(results.read_text()) if results is not None and results.exists() else {}
    for name in settings:
        outcome = _read(kept[name]) if name in kept else run(jobs, SETTINGS[name], config, batch_size, dtype)
        errors[name] = [s.path_error for s in outcome.scores]
        less = ""
        if name != "shipped" and "shipped" in errors:
            less = _mean([x - y for x, y in zip(errors[name], errors["shipped"], strict=True)])
        print(_row(name, outcome, [f"{outcome.seconds:.1f}", str(outcome.num_gradients), less]), flush=True)
        kept[name] = asdict(outcome)
        if results is not None:
            with written_whole(results) as path:
                path.write_text(json.dumps(kept, indent=1))
    if other_clips:
        print("\n| clips | flow error guided | flow error unguided |\n| --- | --- | --- |")
        for name, world in (
            ("camera only", {"camera": True, "paths": ("still",)}),
            ("two objects", {"num_objects": 2}),
        ):
            others = toy_jobs(16, split, **world)
            both = [run(others, SETTINGS[name], config, batch_size, dtype) for name in ("shipped", "unguided")]
            print(f"| {name} | {' | '.join(_mean(outcome.flow_errors) for outcome in both)} |", flush=True)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
