"""The datamodule of distillation: samples from the shards of a data folder."""

from pathlib import Path
from typing import Any, Literal

from lightning import LightningDataModule
from torch.utils.data import DataLoader

from fastvmt_pl.backbones.condition import Condition
from fastvmt_pl.distillation.motion_distillation import MotionDistillation
from fastvmt_pl.distillation.sample_stream import SampleStream
from fastvmt_pl.distillation.shard_index import clip_sha256, read_index
from fastvmt_pl.distillation.shards import Sample, read_shards
from fastvmt_pl.errors import UserError
from fastvmt_pl.method.transfer_jobs import DistillationBatch

Source = Literal["samples", "clip", "mix"]


class _FromPosition(DataLoader[DistillationBatch]):
    """A loader that begins where the module stands, after a restart too."""

    def __init__(self, stream: SampleStream, module: MotionDistillation, num_workers: int) -> None:
        # Not forked: the threads of a trainer's process do not survive it.
        context = "spawn" if num_workers else None
        super().__init__(stream, batch_size=None, num_workers=num_workers, multiprocessing_context=context)
        self.stream, self.module = stream, module

    def __iter__(self) -> Any:  # torch has no public type for it
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
            raise UserError(f"clip_share is {clip_share}; use a share between 0 and 1, or source samples or clip")
        for name, value in {"batch_size": batch_size, "batches_per_epoch": batches_per_epoch}.items():
            if value < 1:
                raise UserError(f"{name} is {value}; use at least 1")
        if num_workers < 0 or num_shuffled < 1:
            raise UserError(f"num_workers is {num_workers} and num_shuffled {num_shuffled}; use 0 and 1 or more")
        self.folder, self.source = Path(folder), source
        self.clip_share = {"samples": 0.0, "clip": 1.0, "mix": clip_share}[source]
        self.batch_size, self.batches_per_epoch = batch_size, batches_per_epoch
        self.num_workers, self.num_shuffled, self.seed = num_workers, num_shuffled, seed

    def setup(self, stage: str) -> None:
        """Read the index, look at a first sample, and find the reference.

        Raises:
            ValueError: If the folder has nothing of the source, or not the trajectories that are to be learned.
        """
        shards = read_index(self.folder)
        self.reference_hash = clip_sha256(shards)
        self.samples, self.clip = (
            [self.folder / shard.name for shard in shards if shard.source == kind and shard.num_samples]
            for kind in ("samples", "clip")
        )
        for kind, found in (("samples", self.samples), ("clip", self.clip)):
            if self.source in (kind, "mix") and not found:
                raise UserError(
                    f"source is {self.source}, and {self.folder} has no {kind}; use another source or folder"
                )
        problems: list[str] = []
        first = next(read_shards(self.samples if self.source != "clip" else self.clip, problems.append), None)
        if first is None:
            raise UserError(f"no sample of {self.folder} can be used: {'; '.join(problems)}")
        if first.latents.ndim != 4 or not first.condition:
            raise UserError(f"samples of {self.folder} have no latents of a video or no text; make them again")
        learned = None if self.trainer is None else self.trainer.lightning_module.objective
        if learned == "trajectory" and first.trajectory is None:
            raise UserError(
                f"samples of {self.folder} have no trajectories; make them by fastvmt distill --objective trajectory, "
                "or use the objective flow_matching"
            )
        channels, frames, height, width = first.latents.shape
        self.first, self.shape = first, (channels, frames, height, width)
        self.reference = next(read_shards(self.clip, problems.append), None)

    def _given_images(self, module: MotionDistillation) -> Condition:
        """Return zeros in the shape of what the first sample has beside its prompt, which is of its image."""
        others = {name: x for name, x in self.first.condition.items() if name not in module.negative_condition.tensors}
        return Condition({name: tensor.new_zeros(1, *tensor.shape) for name, tensor in others.items()})

    def train_dataloader(self) -> DataLoader[DistillationBatch]:
        """Return the batches of an epoch of this process."""
        assert self.trainer is not None
        module = self.trainer.lightning_module
        assert isinstance(module, MotionDistillation)
        share = self.trainer.distributed_sampler_kwargs or {"rank": 0, "num_replicas": 1}
        stream = SampleStream(
            self.samples,
            self.clip,
            self.clip_share,
            self.batch_size,
            self.batches_per_epoch,
            self.first,
            module.negative_condition.to("cpu").joined(self._given_images(module)),
            module.objective == "trajectory",
            self.seed,
            self.num_shuffled,
            share["rank"],
            share["num_replicas"],
        )
        return _FromPosition(stream, module, self.num_workers)
