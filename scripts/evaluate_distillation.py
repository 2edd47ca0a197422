"""Measure how well a LoRA carries a motion to new content, on the toy world, where every true path is known.

Usage: ``python scripts/evaluate_distillation.py --output FOLDER``; the same command resumes a run that was stopped. For
each of six reference motions it makes guided samples, trains a LoRA on them, on the clip alone, and on the mix, all
for the same number of steps, and scores videos of prompts that the training data does not contain, sampled with the
exported file in a fresh model, against plain sampling and guided transfer of the same prompts and seeds.
"""

import json
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean, median
from typing import Any

import torch
import yaml
from benchmark.measure import hardware
from jsonargparse import auto_cli
from lightning import Callback, LightningModule, Trainer

from fastvmt_pl.backbones import DiffusersBackbone
from fastvmt_pl.backbones.precision import Precision
from fastvmt_pl.clips.video_writing import to_frames, write_picture, write_video
from fastvmt_pl.datamodules.distillation_datamodule import Source
from fastvmt_pl.distillation.motion_distillation import MotionDistillation
from fastvmt_pl.distillation.shard_index import read_index
from fastvmt_pl.evaluation.bootstrap import interval_of_mean
from fastvmt_pl.files.atomic import written_whole
from fastvmt_pl.files.names import slug
from fastvmt_pl.lora import DIFFUSERS_FILE, read_adapter, write_lora
from fastvmt_pl.method.motion_transfer import MotionTransfer
from fastvmt_pl.method.sampling import sample
from fastvmt_pl.runs.claims import claimed_folder
from fastvmt_pl.runs.composition import SILENT, compose, compose_training
from fastvmt_pl.runs.lightning_cli import TransferCLI
from fastvmt_pl.runs.options import CONFIGS
from fastvmt_pl.runs.settings import merged, read_config
from fastvmt_pl.runs.teacher import make_samples
from fastvmt_pl.toy import ToyClip, ToyWorld
from fastvmt_pl.toy.toy_jobs import MOVING, Split, ToyJob, other_looks, with_image
from fastvmt_pl.toy.toy_tracker import SHARES
from fastvmt_pl.toy.toy_world import FPS, Appearance

SEEDS: dict[Split, int] = {"tuning": 200, "test": 201}
GUIDED_STEPS = 15
FIRST_SEED = 5000
"""Seed of the first evaluated video; those of the teacher begin at 0."""
COLUMNS = ("path_error", *SHARES)


class KeepLoras(Callback):
    """Writes the LoRA at each epoch's end, to ``FOLDER/STEPS``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write it."""
        assert isinstance(pl_module, MotionDistillation)
        with pl_module.for_sampling():
            backbone = pl_module.backbone
            write_lora(read_adapter(backbone.lora_model()), self.folder / str(trainer.global_step), backbone.family)


class Motion:
    """A reference clip, its prompts for teaching and for judging, and what was found out about it.

    Args:
        clip: The clip.
        number: Which it is.
        num_prompts: Prompts that the teacher gets.
        num_judged: Prompts that are judged; none of them is a combination that the teacher or wan-tiny itself has seen.
        folder: Where everything is kept.
        dtype: Precision of the transformer.
        images: Whether all videos begin with an image of their object, where the clip's starts.
    """

    def __init__(
        self,
        clip: ToyClip,
        number: int,
        num_prompts: int,
        num_judged: int,
        folder: Path,
        dtype: Precision,
        images: bool,
    ) -> None:
        self.clip, self.folder, self.dtype = clip, folder, dtype
        draw = random.Random(f"motion/{number}")
        self.taught = [ToyJob(clip, *other) for other in self._others(draw, False)[:num_prompts]]
        self.jobs = [ToyJob(clip, *other) for other in self._others(draw, True)[:num_judged]]
        if images:
            self.taught, self.jobs = ([with_image(job, draw) for job in jobs] for jobs in (self.taught, self.jobs))
        self.video = folder / "clip.mp4"
        if not self.video.exists():
            write_video(self.video, clip.frames, FPS)
        self.path = folder / "results.json"
        self.results: dict[str, Any] = json.loads(self.path.read_text()) if self.path.exists() else {}

    def _others(self, draw: random.Random, held_out: bool) -> list[tuple[Appearance, str]]:
        others = other_looks(self.clip, held_out=held_out)
        draw.shuffle(others)
        return others

    @property
    def data(self) -> Path:
        """The data folder."""
        return self.folder / "data"

    def transfer(self, jobs: Sequence[ToyJob], **options: Any) -> TransferCLI:
        """Return guided transfer of this motion to some jobs, with overrides."""
        arguments = {
            "model.backbone.init_args.dtype": self.dtype,
            "model.baseline": False,
            "data.clips": [str(self.video)],
            "data.prompts": [job.prompt for job in jobs],
            "data.images": self._images(jobs),
            "data.seed": FIRST_SEED,
            **{name.replace("__", "."): value for name, value in options.items()},
        }
        return compose(merged(read_config(CONFIGS / "wan_tiny.yaml"), arguments))

    def teach(self, batch_size: int, max_flow_error: float) -> None:
        """Make the teacher's samples."""
        transfer = self.transfer(self.taught, data__seed=0)
        make_samples(transfer, self.clip.prompt, len(self.taught), self.data, batch_size, max_flow_error)

    def _images(self, jobs: Sequence[ToyJob]) -> list[str] | None:
        """Return picture files of the jobs' images, if they have any."""
        files = [self.folder / "images" / f"{slug(job.prompt)}.png" for job in jobs]
        for job, file in zip(jobs, files, strict=True):
            if job.image is None:
                return None
            if not file.exists():
                write_picture(file, job.image)
        return [str(file) for file in files]

    def train(self, source: Source, num_steps: int, num_evaluations: int, options: dict[str, Any]) -> dict[int, Path]:
        """Train a LoRA, and return its files by the steps that they took."""
        folder = self.folder / "loras" / source
        every = num_steps // num_evaluations
        wanted = {steps: folder / str(steps) / DIFFUSERS_FILE for steps in range(every, num_steps + 1, every)}
        if not wanted[num_steps].exists():
            arguments = {
                "model.backbone.init_args.dtype": self.dtype,
                "data.folder": str(self.data),
                "data.source": source,
                "data.batches_per_epoch": every,
                "trainer.max_epochs": num_evaluations,
                **options,
            }
            config = merged(read_config(CONFIGS / "wan_tiny_lora.yaml"), arguments)
            cli = compose_training(config, {**SILENT, "callbacks": [KeepLoras(folder)]})
            cli.trainer.fit(cli.model, cli.datamodule)
        return wanted

    def judge(self, name: str, loras: dict[str, float] | None = None, guided_steps: int | None = None) -> None:
        """Score the judged prompts' videos of a setting, unless that is done.

        Args:
            name: The setting.
            loras: Weight of each LoRA file.
            guided_steps: Motion guidance in so many steps; ``None`` is plain sampling.
        """
        if name in self.results:
            return
        backbone = DiffusersBackbone(dtype=self.dtype, loras=loras)
        if guided_steps is None:
            frames, _ = self._sampled(backbone, len(self.jobs))
        else:
            frames, _ = self._guided(backbone, guided_steps, len(self.jobs))
        scores = [job.judge(video) for video, job in zip(frames, self.jobs, strict=True)]
        self.results[name] = {"scores": scores}
        write_video(self.folder / "videos" / f"{name.replace(' ', '_')}.mp4", torch.cat(list(frames), 2), FPS)
        with written_whole(self.path) as path:
            path.write_text(json.dumps(self.results, indent=1))

    def mean(self, name: str, score: str) -> float:
        """Return the mean of a score over a setting's videos."""
        return fmean(one[score] for one in self.results[name]["scores"])

    def seconds(self, lora: Path, fewer_guided_steps: int, num_repeats: int) -> dict[str, float]:
        """Return the time of a decoded video, without and with a fused LoRA, and guided: the median of runs in turn."""
        plain, fused = DiffusersBackbone(dtype=self.dtype), DiffusersBackbone(dtype=self.dtype, loras={str(lora): 1.0})
        sides: dict[str, Callable[[], tuple[torch.Tensor, float]]] = {
            "plain": lambda: self._sampled(plain, 1),
            "a LoRA": lambda: self._sampled(fused, 1),
            "guided": lambda: self._guided(plain, GUIDED_STEPS, 1),
            f"guided, {fewer_guided_steps} steps": lambda: self._guided(plain, fewer_guided_steps, 1),
        }
        times: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(num_repeats + 1):  # the first round warms up
            for name, run in sides.items():
                times[name].append(run()[1])
        return {name: median(found[1:]) for name, found in times.items()}

    def _guided(self, backbone: DiffusersBackbone, guided_steps: int, num_videos: int) -> tuple[torch.Tensor, float]:
        cli = self.transfer(self.jobs[:num_videos], model__num_guided_steps=guided_steps)
        cli.model.backbone = backbone
        _read(backbone, ["", *cli.datamodule.prompts, cli.model.negative_prompt])
        begun = time.perf_counter()
        cli.trainer.fit(cli.model, cli.datamodule)
        return cli.model.result.frames, time.perf_counter() - begun

    def _sampled(self, backbone: DiffusersBackbone, num_videos: int) -> tuple[torch.Tensor, float]:
        cli = self.transfer(self.jobs[:num_videos], model__num_guided_steps=0)
        module: MotionTransfer = cli.model
        prompts, seeds, images = list(cli.datamodule.prompts), cli.datamodule.seeds, cli.datamodule.fitted_images()
        _read(backbone, [*prompts, module.negative_prompt])
        begun = time.perf_counter()
        shape = backbone.latent_shape(len(self.clip.frames), *self.clip.frames.shape[1:3])
        latents = sample(
            backbone, prompts, seeds, shape, module.sigmas, module.guidance_scale, module.negative_prompt, images
        )
        return to_frames(backbone.decode(latents)), time.perf_counter() - begun


def _read(backbone: DiffusersBackbone, prompts: list[str]) -> None:
    """Read the weights and embed the prompts, which would otherwise be done when they are first used: on the clock."""
    backbone.embed_prompts(prompts)
    _ = backbone.transformer, backbone.vae


def _row(name: str, motions: Sequence[Motion], size: str) -> str:
    """Return a row of means; intervals are over motions, since the videos of one share its LoRA."""
    columns = []
    for column in COLUMNS:
        form = "{:.3f} [{:.3f}, {:.3f}]" if column == "path_error" else "{:.1%} [{:.1%}, {:.1%}]"
        columns.append(form.format(*interval_of_mean([motion.mean(name, column) for motion in motions])))
    less = [motion.mean(name, "path_error") - motion.mean("guided", "path_error") for motion in motions]
    paired = "" if name == "guided" else "{:.3f} [{:.3f}, {:.3f}]".format(*interval_of_mean(less))
    return f"| {name} | {' | '.join(columns)} | {paired} | {size} |"


def measure(
    motion: Motion,
    sources: Sequence[Source],
    num_steps: int,
    num_evaluations: int,
    fewer_guided_steps: int,
    max_flow_error: float,
    options: dict[str, Any],
) -> tuple[dict[str, str], Path]:
    """Teach, train and judge a motion, as far as that is not done.

    Returns:
        Each setting with the size of its LoRA in MiB, if it has one, and the last LoRA.
    """
    fewer = f"guided, {fewer_guided_steps} steps"
    sizes = dict.fromkeys(["plain", "guided", fewer], "")
    motion.judge("plain")
    motion.judge("guided", guided_steps=GUIDED_STEPS)
    motion.judge(fewer, guided_steps=fewer_guided_steps)
    motion.teach(12, max_flow_error)
    for source in sources:
        for steps, file in motion.train(source, num_steps, num_evaluations, options).items():
            name = f"LoRA of {source}, {steps} steps"
            motion.judge(name, {str(file): 1.0})
            sizes[name] = f"{file.stat().st_size / 2**20:.2f}"
        if source == "samples":
            name = f"{fewer}, from the LoRA of samples"
            motion.judge(name, {str(file): 1.0}, fewer_guided_steps)
            sizes[name] = ""
    kept = [shard for shard in read_index(motion.data) if shard.source == "samples"]
    good, bad = (sum(getattr(shard, count) for shard in kept) for count in ("num_samples", "num_dropped"))
    print(f"{motion.clip.prompt} ({motion.clip.paths[0]}): {good} samples kept, {bad} dropped", flush=True)
    return sizes, file


def main(
    output: Path,
    num_motions: int = 6,
    num_judged: int = 8,
    num_prompts: int = 24,
    num_steps: int = 160,
    num_evaluations: int = 4,
    sources: Sequence[Source] = ("samples", "clip", "mix"),
    fewer_guided_steps: int = 5,
    max_flow_error: float = 0.7,
    num_repeats: int = 5,
    split: Split = "test",
    dtype: Precision = "bfloat16",
    images: bool = False,
    options: dict[str, Any] | None = None,
) -> None:
    """Teach, train, judge and print the table.

    Args:
        output: Folder of samples, LoRAs, videos and results; what is there is not done again.
        num_motions: Reference motions.
        num_judged: Prompts to judge each by.
        num_prompts: Prompts that the teacher gets.
        num_steps: Training steps.
        num_evaluations: How often to judge on the way.
        sources: What to learn from.
        fewer_guided_steps: Guided steps when a LoRA is the start of a guided transfer, and without it to compare.
        max_flow_error: Samples that move less like the clip are dropped.
        num_repeats: Runs to time sampling by.
        split: Motions that nothing was chosen on, or those for tuning.
        dtype: Precision of the transformer.
        images: Whether all videos begin with an image of their object, where the clip's starts.
        options: Settings of the training that differ from the shipped ones, by their names in its config.
    """
    if num_steps % num_evaluations:
        raise ValueError(f"num_steps is {num_steps} and num_evaluations {num_evaluations}; use a divisor of the first")
    settings = {"num_judged": num_judged, "num_prompts": num_prompts, "num_steps": num_steps, "split": split}
    settings |= {"num_evaluations": num_evaluations, "fewer_guided_steps": fewer_guided_steps, "dtype": dtype}
    settings |= {"max_flow_error": max_flow_error, "options": options, **({"images": True} if images else {})}
    world = ToyWorld(SEEDS[split], num_objects=1, camera=False, paths=MOVING)
    with claimed_folder(output, config=yaml.safe_dump(settings)):  # what is kept there was made with the same ones
        motions = [
            Motion(world[number], number, num_prompts, num_judged, output / f"{number:02d}", dtype, images)
            for number in range(num_motions)
        ]
        for motion in motions:
            sizes, file = measure(
                motion, sources, num_steps, num_evaluations, fewer_guided_steps, max_flow_error, options or {}
            )
    begun = ", from images" if images else ""
    print(f"\n{num_motions} {split} motions, {num_judged} prompts each{begun}, in {dtype}; {hardware('cpu')}.\n")
    header = ["setting", "relative path error", *COLUMNS[1:], "path error less guided", "MiB"]
    print(f"| {' | '.join(header)} |\n|{' --- |' * len(header)}")
    for name, size in sizes.items():
        print(_row(name, motions, size), flush=True)
    times = motions[0].seconds(file, fewer_guided_steps, num_repeats)
    print(f"\n| one video, median of {num_repeats} in turn | seconds | of plain |\n| --- | --- | --- |")
    for name, seconds in times.items():
        print(f"| {name} | {seconds:.2f} | {seconds / times['plain']:.3f} |")


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
