"""Jobs of the toy world: clips, prompts that differ in all three words, and their scores."""

import math
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from fastvmt_pl.errors import UserError
from fastvmt_pl.evaluation.tracks import Frames
from fastvmt_pl.toy.toy_tracker import camera_error, centroids, colour_mask, score, share_followed
from fastvmt_pl.toy.toy_world import (
    MARGIN,
    NUM_FRAMES,
    RADII,
    SIZE,
    Appearance,
    Path,
    ToyClip,
    ToyWorld,
    combinations,
    place,
    prompt_for,
    render,
)

MOVING: tuple[Path, ...] = ("linear", "arc", "sine", "bounce")
"""Paths with motion."""
Split = Literal["tuning", "test"]
SEEDS: dict[Split, int] = {"tuning": 100, "test": 101}
"""Seeds of the worlds: settings are chosen on the first only, never on the second."""


@dataclass(frozen=True)
class ToyJob:
    """A reference clip, and the object and background of the prompt.

    Attributes:
        clip: The clip.
        item: The object.
        background: Name of the background's colour.
        image: The image that the video begins with, which shows the object.
        followed: Which of the clip's objects the new object follows.
        region: Where that object is in each frame of the clip, if the job has a region.
        place: Scale, dx and dy of the object in the image, if it is elsewhere than in the clip.
        scale: Its size in the image as a share of that in the clip.
    """

    clip: ToyClip
    item: Appearance
    background: str
    image: UInt8[Tensor, "height width 3"] | None = None
    followed: int = 0
    region: Bool[Tensor, "frames height width"] | None = None
    place: tuple[float, float, float] | None = None
    scale: float = 1.0

    @property
    def prompt(self) -> str:
        """The prompt."""
        return prompt_for([self.item], self.background)

    @property
    def truth(self) -> Float[Tensor, "frames 2"]:
        """The path that the new object is to follow, in pixels, up to a shift."""
        return self.scale * self.clip.trajectories[self.followed]

    def judge(self, frames: Frames) -> dict[str, float]:
        """Score a video of toy size against the prompt and the true motion of the clip.

        Returns:
            The scores of :class:`~fastvmt_pl.toy.toy_tracker.ToyScore`; with an image ``image_psnr``, the peak
            signal-to-noise ratio of the first frame to it in dB; with a moving camera ``camera_error``, the error of
            the background's flow as a share of the camera's; with a region ``followed``, how much of the path of the
            region's object the new object has, from 0 to 1.
        """
        old = self.clip.objects[self.followed]
        scores = asdict(score(frames, self.item, self.background, self.truth, old.colour))
        if self.image is not None:
            difference = frames[0].float() - self.image.float()
            scores["image_psnr"] = float(10 * torch.log10(255**2 / difference.square().mean()))
        if self.clip.camera.any():
            scores["camera_error"] = camera_error(frames, self.item.colour, self.clip.camera)
        if self.region is not None:
            scores["followed"] = share_followed(centroids(colour_mask(frames, self.item.colour)), self.truth)
        return scores


def other_looks(clip: ToyClip, *, held_out: bool) -> list[tuple[Appearance, str]]:
    """Return combinations of object and background that share no word with a clip.

    Args:
        clip: The clip.
        held_out: Return combinations that wan-tiny never saw in training, else those that it saw.
    """
    return [
        (item, background)
        for item, background in combinations(held_out=held_out)
        if background != clip.background
        and all(item.colour != old.colour and item.shape != old.shape for old in clip.objects)
    ]


def toy_jobs(
    num_jobs: int,
    split: Split = "test",
    num_objects: int = 1,
    camera: bool = False,
    paths: Sequence[Path] = MOVING,
    images: bool = False,
    elsewhere: bool = False,
    region: int | None = None,
) -> list[ToyJob]:
    """Return jobs whose prompts were not in the training data.

    Args:
        num_jobs: Number of jobs.
        split: ``tuning`` to choose settings, ``test`` to measure.
        num_objects: Objects per clip.
        camera: Whether the camera moves.
        paths: Kinds of path.
        images: Whether videos begin with an image.
        elsewhere: Whether the image's object is elsewhere than the clip's and of another size.
        region: The object of the clip, from 0, that is the region; ``None`` for no region.

    Raises:
        UserError: If there is no such object, or ``elsewhere`` without image and region.
    """
    if region is not None and not 0 <= region < num_objects:
        raise UserError(f"region is {region}; use the number of an object, 0 to {num_objects - 1}")
    if elsewhere and (region is None or not images):
        raise UserError("elsewhere needs images and a region; set both")
    world = ToyWorld(SEEDS[split], num_objects=num_objects, camera=camera, paths=paths)
    jobs = []
    for index in range(num_jobs):
        clip = world[index]
        item, background = random.Random(f"{split}/{index}").choice(other_looks(clip, held_out=True))
        job = ToyJob(clip, item, background)
        if region is not None:
            mask = colour_mask(clip.frames, clip.objects[region].colour)
            job = replace(job, followed=region, region=mask)
        if images:
            job = with_image(job, random.Random(f"{split}/{index}/image"), elsewhere)
        jobs.append(job)
    return jobs


def with_image(job: ToyJob, draw: random.Random, elsewhere: bool = False) -> ToyJob:
    """Return a job whose video begins with an image of its object, where the clip's starts or elsewhere.

    Args:
        job: The job; it needs a region if the object is elsewhere.
        draw: Draws the object's size, and its place.
        elsewhere: Whether the object is elsewhere than the clip's and of another size.
    """
    path, still = job.clip.trajectories[job.followed], torch.zeros(NUM_FRAMES, 2)
    start, scale, radii, moved = path[0], 1.0, RADII, None
    if elsewhere:
        assert job.region is not None
        columns, rows = (job.region[0].any(axis).nonzero()[:, 0].float() for axis in (0, 1))
        corners = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        old = float(job.region[0].sum() / math.pi) ** 0.5 + 0.5  # a mask has no blended edge
        smaller, larger = draw.uniform(RADII[0], RADII[0] + 0.5) / old, draw.uniform(RADII[1] - 0.5, RADII[1]) / old
        room = (1 - 2 * MARGIN) * SIZE / float((path.amax(0) - path.amin(0)).amax())
        scale = larger if larger * smaller > 1 and larger < room else smaller
        radius = scale * old
        start = place(draw, scale * (path - path[0]), [])[0]
        middle = (corners[:2] + corners[2:] - 1) / 2
        across, down = (start - middle - scale * (path[0] - middle)).tolist()
        radii, moved = (radius, radius), (scale, across, down)
    image = render(draw, [job.item], job.background, start.expand(1, NUM_FRAMES, 2), still, radii)[0]
    return replace(job, image=image, place=moved, scale=scale)
