"""The datamodule of distillation: samples from shards, in an order that depends on the seed alone."""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from typing import Literal

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from fastvmt_pl.files import written_whole
from fastvmt_pl.jobs import DistillationBatch
from fastvmt_pl.motion_distillation import MotionDistillation

from .shards import Sample, read_shards

INDEX = "index.json"
Source = Literal["samples", "clip", "mix"]


@dataclass(frozen=True)
class Shard:
    """An entry of a data folder's index.

    Attributes:
        name: The tar file.
        source: Whether it holds the reference clip, or samples: guided ones, or videos that a user brought.
        num_samples: How many it holds.
        num_dropped: How many were left out because they do not move as the reference does.
        sha256: Hash of the clip's file.
        origin: What a shard of a user's videos was made of, and how.
    """

    name: str
    source: Literal["samples", "clip"]
    num_samples: int
    num_dropped: int = 0
    sha256: str | None = None
    origin: str | None = None


def read_index(folder: Path) -> list[Shard]:
    """Return what a data folder's index lists.

    Raises:
        ValueError: If there is none, or it is none.
    """
    path = folder / INDEX
    try:
        return [Shard(**entry) for entry in json.loads(path.read_text())["shards"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} cannot be read ({error}); make a data folder with fastvmt distill or fastvmt encode"
        ) from error


def write_index(folder: Path, shards: Sequence[Shard]) -> None:
    """Write a data folder's index."""
    with written_whole(folder / INDEX) as path:
        path.write_text(json.dumps({"shards": [asdict(shard) for shard in shards]}, indent=1) + "\n")


class SampleStream(IterableDataset[DistillationBatch]):
    """Batches of one process out of an endless stream of samples that is the same for all.

    Draw ``d`` of the training takes the next sample of the shards, or of the clip where its share is due; passes over
    the shards are shuffled anew. Batch ``n`` of process ``r`` of ``W`` holds draws ``(n W + r) b`` to ``(n W + r + 1)
    b``. So neither the number of processes nor that of workers changes what a step learns from: each of them reads all
    shards, which are small beside what the model costs, and collates its own share.

    Args:
        samples: Shards of samples.
        clip: Shards of the clip.
        clip_share: Share of the draws that the clip gets.
        batch_size: Draws a batch.
        num_batches: Batches until the next multiple of this number, which ends an epoch.
        like: A sample whose shapes all others need to have.
        num_text_tokens: Text tokens that prompts are filled up to with zeros.
        trajectories: Also read the teacher's trajectories.
        seed: Seed of the order.
        num_shuffled: Size of the shuffle buffer in samples.
    """

    first: int
    """The batch to begin at."""

    def __init__(
        self,
        samples: Sequence[Path],
        clip: Sequence[Path],
        clip_share: float,
        batch_size: int,
        num_batches: int,
        like: Sample,
        num_text_tokens: int,
        trajectories: bool,
        seed: int,
        num_shuffled: int,
        rank: int,
        num_processes: int,
    ) -> None:
        self.samples, self.clip, self.clip_share = samples, clip, clip_share
        self.batch_size, self.num_batches, self.like = batch_size, num_batches, like
        self.num_text_tokens, self.trajectories = num_text_tokens, trajectories
        self.seed, self.num_shuffled = seed, num_shuffled
        self.rank, self.num_processes = rank, num_processes
        self.first = 0
        self.problems: list[str] = []
        self._num_good: dict[str, int] = {}

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[DistillationBatch]:
        worker = get_worker_info()
        number, num_workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        end = (self.first // self.num_batches + 1) * self.num_batches
        mine = {
            (batch * self.num_processes + self.rank) * self.batch_size + place: batch
            for batch in range(self.first + number, end, num_workers)
            for place in range(self.batch_size)
        }
        last, held = max(mine, default=0), list[tuple[int, Sample]]()
        for draw, sample in self._draws(self.first * self.num_processes * self.batch_size):
            if draw in mine:
                held.append((draw, sample))
            if len(held) == self.batch_size:
                yield self._collated(held)
                held = []
            if draw >= last:
                return

    def _draws(self, first: int) -> Iterator[tuple[int, Sample]]:
        """Yield numbered samples from a number on."""
        num_from_clip = int(first * self.clip_share)
        clip = self._endless(self.clip, num_from_clip, "clip")
        samples = self._endless(self.samples, first - num_from_clip, "samples")
        for draw in count(first):
            due = int((draw + 1) * self.clip_share) > int(draw * self.clip_share)
            yield draw, next(clip if due else samples)

    def _endless(self, paths: Sequence[Path], first: int, what: str) -> Iterator[Sample]:
        """Yield the good samples of pass after pass, each in an order of its own, from a number on."""
        position, num_pass = 0, 0
        while True:
            if what in self._num_good:  # whole passes need not be read to be left out
                skipped = max(0, first - position) // self._num_good[what]
                position, num_pass = position + skipped * self._num_good[what], num_pass + skipped
            order, num_good = random.Random(f"{self.seed}/{what}/{num_pass}"), 0
            for sample in read_shards(paths, self.problems.append, order, self.num_shuffled):
                if not self._fits(sample):
                    continue
                if position + num_good >= first:
                    yield sample
                num_good += 1
            if not num_good:
                raise ValueError(f"no sample can be used of {', '.join(map(str, paths))}: {'; '.join(self.problems)}")
            self._num_good[what] = num_good
            position, num_pass = position + num_good, num_pass + 1

    def _fits(self, sample: Sample) -> bool:
        shapes = {
            "latents": (sample.latents.shape, self.like.latents.shape),
            "text, less its tokens,": (sample.text.shape[1:], self.like.text.shape[1:]),
        }
        if self.trajectories:
            shapes |= {
                "trajectory": (_shape(sample.trajectory), _shape(self.like.trajectory)),
                "sigmas": (_shape(sample.sigmas), _shape(self.like.sigmas)),
            }
        reasons = [
            f"its {name} has shape {list(found)} instead of {list(wanted)}"
            for name, (found, wanted) in shapes.items()
            if found != wanted
        ]
        if len(sample.text) > self.num_text_tokens:
            reasons.append(f"its prompt has {len(sample.text)} tokens, more than {self.num_text_tokens}")
        self.problems += [f"sample {sample.prompt!r}, seed {sample.seed}: {reason}" for reason in reasons]
        return not reasons

    def _collated(self, held: list[tuple[int, Sample]]) -> DistillationBatch:
        samples = [sample for _, sample in held]
        trajectory = sigmas = None
        if self.trajectories:
            trajectory = torch.stack([sample.trajectory for sample in samples if sample.trajectory is not None])
            sigmas = torch.stack([sample.sigmas for sample in samples if sample.sigmas is not None])
        problems, self.problems = self.problems, []
        return DistillationBatch(
            latents=torch.stack([sample.latents for sample in samples]),
            text=torch.stack([pad(s.text, (0, 0, 0, self.num_text_tokens - len(s.text))) for s in samples]),
            draws=torch.tensor([draw for draw, _ in held]),
            trajectory=trajectory,
            sigmas=sigmas,
            guidance_scale=torch.tensor([sample.guidance_scale for sample in samples]),
            problems=problems,
        )


def _shape(tensor: Tensor | None) -> tuple[int, ...]:
    return () if tensor is None else tuple(tensor.shape)


class _FromPosition(DataLoader):
    """A loader that begins where the module stands, after a restart too."""

    def __init__(self, stream: SampleStream, module: MotionDistillation, num_workers: int) -> None:
        # Not forked: the threads of a trainer's process do not survive it.
        context = "spawn" if num_workers else None
        super().__init__(stream, batch_size=None, num_workers=num_workers, multiprocessing_context=context)
        self.stream, self.module = stream, module

    def __iter__(self) -> Iterator[DistillationBatch]:
        self.stream.first = self.module.num_batches
        return super().__iter__()


class DistillationDataModule(LightningDataModule):
    """Samples of a data folder, as ``fastvmt distill`` and ``fastvmt encode`` make it, for training a LoRA.

    An epoch is a fixed number of batches of an endless stream, whose order depends on the seed alone: not on the number
    of processes and workers, and a restart goes on where it stopped. Samples and shards that cannot be used are
    skipped, named in a warning and counted in the log.

    Args:
        folder: The data folder.
        source: Learn from the samples, from the reference clip itself, or from both.
        clip_share: With a mix, the share of the clip.
        batch_size: Videos a batch and process.
        batches_per_epoch: Batches an epoch; previews, checkpoints and stopping come at the end of one.
        num_workers: Reading processes beside each training process.
        num_shuffled: Size of the shuffle buffer in samples.
        seed: Seed of the order.

    Raises:
        ValueError: If a setting is out of range.
    """

    reference: Sample | None
    """The reference clip, if the folder has it; there after ``setup``."""
    reference_hash: str | None
    """SHA-256 of the clip's file, if it is known; there after ``setup``."""
    shape: tuple[int, int, int, int]
    """Channels, frames, height and width of the latents; there after ``setup``."""

    def __init__(
        self,
        folder: Path,
        source: Source = "mix",
        clip_share: float = 0.25,
        batch_size: int = 8,
        batches_per_epoch: int = 50,
        num_workers: int = 0,
        num_shuffled: int = 1000,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if not 0 < clip_share < 1:
            raise ValueError(f"clip_share is {clip_share}; use a share between 0 and 1, or source samples or clip")
        for name, value in {"batch_size": batch_size, "batches_per_epoch": batches_per_epoch}.items():
            if value < 1:
                raise ValueError(f"{name} is {value}; use at least 1")
        if num_workers < 0 or num_shuffled < 1:
            raise ValueError(f"num_workers is {num_workers} and num_shuffled {num_shuffled}; use 0 and 1 or more")
        self.folder, self.source = Path(folder), source
        self.clip_share = {"samples": 0.0, "clip": 1.0, "mix": clip_share}[source]
        self.batch_size, self.batches_per_epoch = batch_size, batches_per_epoch
        self.num_workers, self.num_shuffled, self.seed = num_workers, num_shuffled, seed

    def setup(self, stage: str) -> None:
        """Read the index, look at a first sample, and find the reference.

        Raises:
            ValueError: If the folder has nothing of the source.
        """
        shards = read_index(self.folder)
        self.reference_hash = next((shard.sha256 for shard in shards if shard.source == "clip"), None)
        self.samples, self.clip = (
            [self.folder / shard.name for shard in shards if shard.source == kind and shard.num_samples]
            for kind in ("samples", "clip")
        )
        for kind, found in (("samples", self.samples), ("clip", self.clip)):
            if self.source in (kind, "mix") and not found:
                raise ValueError(
                    f"source is {self.source}, and {self.folder} has no {kind}; use another source or folder"
                )
        problems: list[str] = []
        first = next(read_shards(self.samples if self.source != "clip" else self.clip, problems.append), None)
        if first is None:
            raise ValueError(f"no sample of {self.folder} can be used: {'; '.join(problems)}")
        if first.latents.ndim != 4 or first.text.ndim != 2:
            raise ValueError(f"samples of {self.folder} have no latents of a video or no text; make them anew")
        channels, frames, height, width = first.latents.shape
        self.first, self.shape = first, (channels, frames, height, width)
        self.reference = next(read_shards(self.clip, problems.append), None)

    def train_dataloader(self) -> DataLoader:
        """Return the batches of an epoch of this process."""
        assert self.trainer is not None
        module: MotionDistillation = self.trainer.lightning_module
        share = self.trainer.distributed_sampler_kwargs or {"rank": 0, "num_replicas": 1}
        stream = SampleStream(
            self.samples,
            self.clip,
            self.clip_share,
            self.batch_size,
            self.batches_per_epoch,
            self.first,
            module.negative_text.shape[1],
            module.objective == "trajectory",
            self.seed,
            self.num_shuffled,
            share["rank"],
            share["num_replicas"],
        )
        return _FromPosition(stream, module, self.num_workers)
