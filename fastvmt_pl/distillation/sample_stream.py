"""Batches of samples in an order that depends only on the seed, not on processes, workers or restarts."""

import random
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from fastvmt_pl.backbones.condition import Condition
from fastvmt_pl.distillation.shards import OWN_TENSORS, Sample, read_shards
from fastvmt_pl.errors import UserError
from fastvmt_pl.method.transfer_jobs import DistillationBatch


class SampleStream(IterableDataset[DistillationBatch]):
    """The batches of one process from an endless stream of draws that is the same for all processes.

    Each draw takes the next sample of the shards, or at regular intervals of the clip. The shards are shuffled in each
    pass. With batches of ``b`` draws, batch ``n`` of process ``r`` of ``W`` holds the ``b`` draws from ``(n W + r) b``
    on. Each worker reads all shards, which is cheap next to a training step, and collates only its own draws; so the
    number of processes and workers does not change the training.

    Args:
        samples: Shards of samples.
        clip: Shards of the clip.
        clip_share: Share of the draws that the clip gets.
        batch_size: Draws per batch.
        num_batches: Batches per epoch.
        like: A sample with the shapes that all samples must have.
        condition: A condition with the shapes that all conditions are padded to, on the CPU.
        trajectories: Whether to read the teacher's trajectories too.
        seed: Seed of the order.
        num_shuffled: Size of the shuffle buffer in samples.
        rank: Number of this process.
        num_processes: Number of processes.
    """

    first: int
    """The batch to start at."""

    def __init__(
        self,
        samples: Sequence[Path],
        clip: Sequence[Path],
        clip_share: float,
        batch_size: int,
        num_batches: int,
        like: Sample,
        condition: Condition,
        trajectories: bool,
        seed: int,
        num_shuffled: int,
        rank: int,
        num_processes: int,
    ) -> None:
        self.samples, self.clip, self.clip_share = samples, clip, clip_share
        self.batch_size, self.num_batches, self.like = batch_size, num_batches, like
        self.condition, self.trajectories = condition, trajectories
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
            (batch * self.num_processes + self.rank) * self.batch_size + place
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
        """Yield each draw from a first one on: its number and its sample."""
        num_from_clip = int(first * self.clip_share)
        clip = self._endless(self.clip, num_from_clip, "clip")
        samples = self._endless(self.samples, first - num_from_clip, "samples")
        for draw in count(first):
            due = int((draw + 1) * self.clip_share) > int(draw * self.clip_share)
            yield draw, next(clip if due else samples)

    def _endless(self, paths: Sequence[Path], first: int, what: str) -> Iterator[Sample]:
        """Yield the usable samples from a first one on, pass after pass, each pass in its own order."""
        position, num_pass = 0, 0
        while True:
            if what in self._num_good:  # skips whole passes without reading them
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
                raise UserError(f"no sample can be used of {', '.join(map(str, paths))}: {'; '.join(self.problems)}")
            self._num_good[what] = num_good
            position, num_pass = position + num_good, num_pass + 1

    def _fits(self, sample: Sample) -> bool:
        reasons = []
        for name in OWN_TENSORS if self.trajectories else ("latents",):
            found, wanted = _shape(getattr(sample, name)), _shape(getattr(self.like, name))
            if found != wanted:
                reasons.append(f"its {name} has shape {found} instead of {wanted}")
        reasons += self.condition.misfits(sample.condition)
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
            condition=Condition.stack([sample.condition for sample in samples], self.condition),
            draws=torch.tensor([draw for draw, _ in held]),
            trajectory=trajectory,
            sigmas=sigmas,
            guidance_scale=torch.tensor([sample.guidance_scale for sample in samples]),
            problems=problems,
        )


def _shape(tensor: Tensor | None) -> list[int]:
    return [] if tensor is None else list(tensor.shape)
