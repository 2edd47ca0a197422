"""The region of each job's clip whose motion is transferred, and its place in the new video."""

from collections.abc import Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastvmt_pl.backbones import Backbone
from fastvmt_pl.clips.clip import Clip
from fastvmt_pl.errors import UserError
from fastvmt_pl.objectives import MotionTarget
from fastvmt_pl.objectives.placement import CarriedPart, Placement
from fastvmt_pl.regions import (
    Region,
    RegionOf,
    check_place,
    check_seen,
    find_region,
    parse_place,
    parse_region,
    place_of,
)


class JobRegions:
    """Finds the regions of the jobs' clips, and restricts the clips' motion to them.

    Args:
        region: The region as it was given; ``None`` transfers all motion, or ``auto`` with ``region_of`` background.
        region_of: Whose motion is transferred.
        place: Where the region's motion is in the new video; ``None`` is ``auto`` with an image.
        background_weight: Factor on the losses outside the region.
        with_image: Whether the videos begin with images.

    Raises:
        UserError: If a setting is out of range, or has no effect without a region.
    """

    def __init__(
        self,
        region: str | list[float] | Tensor | None,
        region_of: RegionOf,
        place: str | list[float] | None,
        background_weight: float,
        with_image: bool,
    ) -> None:
        if region is None and region_of == "background":
            region = "auto"
        if not isinstance(region, Tensor | None):
            parse_region(region)
        if place is not None:
            check_place(parse_place(place), region_of, with_image)
        if region is None and (place not in (None, "same") or background_weight != 1):
            raise UserError("place and background_weight need a region; give region, such as auto")
        if background_weight < 0:
            raise UserError(f"background_weight is {background_weight}; use 0 or more")
        self.given, self.region_of, self.place = region, region_of, place
        self.background_weight = background_weight
        self.found: list[tuple[Region, Placement | None]] | None = None
        self.size = (0, 0)

    def find(
        self,
        clips: Sequence[Clip],
        sources: Sequence[str | Path | Clip],
        images: Sequence[Tensor] | None,
        size: tuple[int, int],
        reading: Mapping[str, Any],
        backbone: Backbone,
    ) -> None:
        """Find regions and places, once.

        Args:
            clips: One clip for all jobs, or one a job.
            sources: What each was read from.
            images: One image for all jobs, or one a job.
            size: Height and width of the new videos in pixels.
            reading: Arguments of :func:`~fastvmt_pl.clips.read_clip` that the clips were read with.
            backbone: The model, whose tokens tell how small a place may be.

        Raises:
            UserError: If a region or a place cannot be used.
        """
        if self.given is None or self.found is not None:
            return
        regions = {
            id(clip): find_region(self.given, self.region_of, clip, size, source, reading)
            for clip, source in zip(clips, sources, strict=True)
        }
        subjects: Sequence[Tensor | None] = images or [None]
        num_jobs = max(len(clips), len(subjects))
        pairs = [(regions[id(clips[n % len(clips)])], subjects[n % len(subjects)]) for n in range(num_jobs)]
        found = [(region, place_of(self.place, region, size, image)) for region, image in pairs]
        latents = torch.empty(1, *backbone.latent_shape(len(clips[0].frames), *size), device="meta")
        grid, num_frames = backbone.token_grid(latents), backbone.num_token_frames(latents.shape[2])
        for region, placement in found:
            if placement is not None:
                check_seen(placement, region.tokens(num_frames, grid, size)[0], grid, size)
        self.found, self.size = found, size

    def of_jobs(self, jobs: range) -> "JobRegions":
        """Return the regions of some jobs."""
        other = copy(self)
        if self.num_rows > 1:
            other.found = [self.found[job] for job in jobs] if self.found else None
        return other

    @property
    def num_rows(self) -> int:
        """The number of different regions and places: 0 without a region, 1 for all jobs, or one a job."""
        return len(self.found or [])

    def of_job(self, job: int) -> tuple[Region, Placement | None] | None:
        """Return a job's region and its place, ``None`` being the clip's; or ``None`` without a region."""
        return self.found[job % len(self.found)] if self.found else None

    def painted(self, clip: Clip, job: int) -> Clip:
        """Return a job's clip as its motion is read: without what is not transferred."""
        mine = self.of_job(job)
        return clip if mine is None else Clip(mine[0].painted(clip.frames), clip.fps, clip.name)

    def carry(self, target: MotionTarget, job: int) -> MotionTarget:
        """Return the part of a clip's motion that a job's video follows.

        Args:
            target: The motion of the job's clip.
            job: The job's number.
        """
        mine = self.of_job(job)
        if mine is None:
            return target
        region, placement = mine
        subject, background = region.tokens(target.num_frames, target.grid, self.size)
        camera = region.camera_path(target.num_frames)
        return target.carry(CarriedPart(subject, background, placement, self.background_weight, camera))
