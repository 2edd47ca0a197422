"""The datamodule of motion transfer: reads clips, encodes them and extracts their motion, once."""

from collections.abc import Sequence
from copy import copy
from math import inf
from pathlib import Path
from typing import Any, Literal

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fastvmt_pl.clips.clip import Clip, Video, check_file, fit, read_clip
from fastvmt_pl.clips.image import read_image
from fastvmt_pl.clips.video_reader import ClipError, DecoderName
from fastvmt_pl.datamodules.job_regions import JobRegions
from fastvmt_pl.errors import UserError
from fastvmt_pl.method.motion_cache import MotionCache
from fastvmt_pl.method.motion_transfer import MotionTransfer
from fastvmt_pl.method.reference import read_reference
from fastvmt_pl.method.sampling import SHARED_SEED
from fastvmt_pl.method.transfer_jobs import TransferJobs
from fastvmt_pl.objectives import AttentionFlow, MotionTarget
from fastvmt_pl.regions import RegionOf

LARGEST_SEED = 2**63 - 1
"""Largest seed of PyTorch's generators."""


class InnerSteps(Dataset[MotionTarget]):
    """The batches of an epoch: the target of the guided step that the module is at, once an inner step."""

    def __init__(self, module: MotionTransfer, targets: list[MotionTarget]) -> None:
        self.module, self.targets = module, targets

    def __len__(self) -> int:
        return self.module.num_inner_steps

    def __getitem__(self, index: int) -> MotionTarget:
        return self.targets[min(self.module.step, len(self.targets) - 1)]


def check_interval(start: float, end: float | None) -> None:
    """Check an interval of a clip in seconds; an end of ``None`` is the clip's.

    Raises:
        UserError: If it is none.
    """
    if start < 0 or (end is not None and end <= start):
        raise UserError(f"start is {start} and end {end}; use seconds with 0 <= start < end")


class MotionDataModule(LightningDataModule):
    """Jobs of motion transfer: one clip for all prompts, or a clip for each.

    Motion is extracted from the trainer's module's backbone for all guided steps and kept on disk under a hash of the
    clip's content, the backbone and the settings, so that new prompts and seeds skip it.

    Args:
        clips: Video files, folders of numbered pictures, or clips that have been read: one for all
            prompts, or one for each.
        prompts: What each job is to show.
        images: The image that each video begins with, cropped to ``size``: picture files, or their pixels, 0 to 255,
            one for all prompts or one for each; ``None`` for models that make videos of text.
        region: The part of each clip whose motion is transferred: a box (x0, y0, x1, y1) in pixels of the first frame
            or a mask of it (a picture), which are followed through the clip; masks of all frames (a video, or a folder
            of numbered pictures); or ``auto`` for all that moves against the background. The rest of the new video
            follows the camera. ``None`` transfers all motion.
        region_of: ``subject`` transfers what is in the region, ``background`` the camera's motion alone; without a
            region, it leaves out all that moves against the background, if anything does.
        place: Where the region's motion is in the new video: the subject's box in the image, or in the new video if
            there is no image; scale, dx and dy in pixels of the new video; ``auto``, which finds the image's subject;
            or ``same``. ``None`` is ``auto`` with an image.
        background_weight: Factor on the losses outside the region; 0 leaves the rest of the new video free.
        seed: Seed of the first job's noise, to which each further job adds 1; or the seed of each job.
        num_frames: Frames to read of each clip and to make, by the backbone's rule (Wan: 4 n + 1).
        size: Height and width in pixels, by the backbone's rule (Wan: multiples of 16).
        start: Start of the interval of each clip in seconds.
        end: End of the interval in seconds; ``None`` is the end of the clip.
        stride: Take every stride-th frame; ``None`` spreads the frames evenly over the interval.
        fps: Frames per second of clips that are folders of numbered pictures.
        output_fps: Frames per second of the new videos. Default: those of the frames as read, so that the motion is as
            fast as in the clip.
        decoder: Decoder of video files, see :func:`~fastvmt_pl.clips.read_clip`.
        motion: How motion is read from the backbone, by losses that name no feature of their own.
        reference_timestep: Noise level times 1000 at which the reference is read; ``None`` is the sample's own.
        reference_noise: ``shared`` noises the reference with the same noise for all jobs, so that its motion serves
            every seed; ``job`` with each job's own noise. The published code uses noise that is neither.
        extraction_batch: Guided steps whose motion is extracted at a time; more is faster and takes more memory.
        keep_motion: Keep extracted motion on disk.
        cache_dir: Folder of kept motion; ``None`` is ``fastvmt_pl/motion`` in the user's cache folder.

    Raises:
        UserError: If a setting is out of range, or the numbers of clips and prompts do not match.
        ClipError: If a clip cannot be used.
    """

    jobs: TransferJobs
    """What the module is to do; there after ``setup``."""
    clips: list[Clip]
    """The clips that were read, one a job; there after ``setup``."""
    regions: JobRegions
    """Regions and places; found by ``read_clips``."""

    def __init__(
        self,
        clips: Sequence[str | Path | Clip],
        prompts: Sequence[str],
        images: Sequence[str | Path | Tensor] | None = None,
        region: str | list[float] | Tensor | None = None,
        region_of: RegionOf = "subject",
        place: str | list[float] | None = None,
        background_weight: float = 1.0,
        seed: int | list[int] = 0,
        num_frames: int = 81,
        size: tuple[int, int] = (480, 832),
        start: float = 0.0,
        end: float | None = None,
        stride: int | None = None,
        fps: float | None = None,
        output_fps: float | None = None,
        decoder: DecoderName = "pyav",
        motion: AttentionFlow = AttentionFlow(),
        reference_timestep: float | None = None,
        reference_noise: Literal["shared", "job"] = "shared",
        extraction_batch: int = 1,
        keep_motion: bool = True,
        cache_dir: Path | None = None,
    ) -> None:
        super().__init__()
        if not prompts:
            raise UserError("there is no prompt; say what each video shows")
        if len(clips) not in (1, len(prompts)):
            raise UserError(f"{len(clips)} clips for {len(prompts)} prompts; give one clip, or a clip for each prompt")
        if images is not None and len(images) not in (1, len(prompts)):
            raise UserError(f"{len(images)} images for {len(prompts)} prompts; give one, or one for each prompt")
        for number, prompt in enumerate(prompts):
            if not prompt.strip():
                raise UserError(f"prompt {number + 1} is empty; say what the video is to show")
        self.seeds = [seed + number for number in range(len(prompts))] if isinstance(seed, int) else seed
        if len(self.seeds) != len(prompts) or min(self.seeds) < 0 or max(self.seeds) > LARGEST_SEED:
            raise UserError(
                f"seed is {seed}; use 0 to {LARGEST_SEED}, or as many of them as there are prompts, {len(prompts)}"
            )
        check_interval(start, end)
        self.regions = JobRegions(region, region_of, place, background_weight, with_image=images is not None)
        if reference_timestep is not None and not 0 <= reference_timestep <= 1000:
            raise UserError(f"reference_timestep is {reference_timestep}; use 0 to 1000, or null")
        if extraction_batch < 1:
            raise UserError(f"extraction_batch is {extraction_batch}; use at least 1")
        for clip in clips:
            if not isinstance(clip, Clip):
                check_file(clip)
        self.sources, self.prompts = list(clips), tuple(prompts)
        self.images = None if images is None else [x if isinstance(x, Tensor) else read_image(x) for x in images]
        self.image_names = ["pixels" if isinstance(x, Tensor) else str(x) for x in images or []]
        self.num_frames, self.size = num_frames, size
        self.start, self.end, self.stride = start, end, stride
        if output_fps is not None and not 0 < output_fps < inf:
            raise UserError(f"output_fps is {output_fps}; use a positive number of frames per second")
        self.fps, self.output_fps, self.decoder = fps, output_fps, decoder
        self.motion, self.reference_timestep = motion, reference_timestep
        self.reference_noise, self.extraction_batch = reference_noise, extraction_batch
        self.keep_motion, self.cache_dir = keep_motion, cache_dir

    def check_settings(self, module: MotionTransfer) -> None:
        """Check the settings against a module and its backbone, without its weights.

        Raises:
            ValueError: If the backbone does not have the geometry or the block, a loss cannot be computed on it, or
                the cache folder cannot be used.
            ClipError: If a clip cannot be used.
        """
        module.check_geometry(self.num_frames, self.size, self.motion)
        module.backbone.check_images(given=self.images is not None)
        self.cache = MotionCache(self.cache_dir) if self.keep_motion else None
        if self.cache is not None:
            self.cache.check()

    def read_clips(self, module: MotionTransfer) -> list[Clip]:
        """Check the settings as :meth:`check_settings` does, and read the clips, once.

        Raises:
            UserError: If a setting does not go with the backbone.
            ClipError: If a clip cannot be used.
        """
        self.check_settings(module)
        files = {str(source): source for source in self.sources if not isinstance(source, Clip)}
        read = {name: self._read(file) for name, file in files.items()}
        clips = [self._read(one) if isinstance(one, Clip) else read[str(one)] for one in self.sources]
        self.regions.find(clips, self.sources, self.images, self.size, self.reading, module.backbone)
        self.sources = list(clips)
        return clips

    def of_jobs(self, jobs: range) -> "MotionDataModule":
        """Return the same datamodule for some of its jobs."""
        other = copy(self)
        other.prompts, other.seeds = tuple(self.prompts[job] for job in jobs), [self.seeds[job] for job in jobs]
        if len(self.sources) > 1:
            other.sources = [self.sources[job] for job in jobs]
        if self.images is not None and len(self.images) > 1:
            other.images = [self.images[job] for job in jobs]
            other.image_names = [self.image_names[job] for job in jobs]
        other.regions = self.regions.of_jobs(jobs)
        return other

    def setup(self, stage: str) -> None:
        """Read the clips and get their latents and motion, from the cache or from the backbone."""
        assert self.trainer is not None
        module = self.trainer.lightning_module
        assert isinstance(module, MotionTransfer)
        module.check_trainer(self.trainer)
        backbone = module.backbone
        read = self.read_clips(module)
        backbone.to(self.trainer.strategy.root_device)
        backbone.embed_prompts(["", *self.prompts, module.negative_prompt])
        backbone.release_text_encoder()  # before the transformer is read: which is often the smaller of the two
        seeds = self.seeds
        self.clips = read if len(read) == len(seeds) else read * len(seeds)
        shared = len(read) == 1 and self.reference_noise == "shared"
        sigmas = module.sigmas[: module.num_guided_steps]
        if self.reference_timestep is not None:
            sigmas = torch.full_like(sigmas, self.reference_timestep / 1000)
        read = [self.regions.painted(clip, job) for job, clip in enumerate(self.clips)]
        found = [
            read_reference(
                backbone,
                clip,
                self.size,
                module.features(self.motion),
                sigmas,
                SHARED_SEED if self.reference_noise == "shared" else seed,
                self.extraction_batch,
                self.cache,
                with_image=self.images is not None,
            )
            for clip, seed in zip(read[: 1 if shared else None], seeds, strict=False)
        ]
        reference = torch.cat([latents for latents, _ in found]).expand(len(seeds), -1, -1, -1, -1)
        self.jobs = TransferJobs(self.prompts, tuple(seeds), reference, self.fitted_images())
        rows = [found[job % len(found)][1] for job in range(max(len(found), self.regions.num_rows))]
        self.targets = [
            MotionTarget.stack([self.regions.carry(target, job) for job, target in enumerate(step)])
            for step in zip(*rows, strict=True)
        ]

    def train_dataloader(self) -> DataLoader[MotionTarget]:
        """Return the inner steps of one guided step."""
        assert self.trainer is not None
        module = self.trainer.lightning_module
        assert isinstance(module, MotionTransfer)
        return DataLoader(InnerSteps(module, self.targets), batch_size=None)

    def fitted_images(self) -> Video | None:
        """Return the image of each job, cropped and resized, as a video of one frame; ``None`` if there are none."""
        if self.images is None:
            return None
        videos = [fit(image[None], self.size) for image in self.images]
        return torch.cat(videos).expand(len(self.prompts), -1, -1, -1, -1)

    @property
    def reading(self) -> dict[str, Any]:
        """How clips are read: arguments of :func:`~fastvmt_pl.clips.read_clip`."""
        return {name: getattr(self, name) for name in ("num_frames", "start", "end", "stride", "fps", "decoder")}

    def _read(self, source: str | Path | Clip) -> Clip:
        if not isinstance(source, Clip):
            return read_clip(source, **self.reading)
        if len(source.frames) != self.num_frames:
            raise ClipError(f"clip {source.name} has {len(source.frames)} frames; set num_frames to as many")
        return source
