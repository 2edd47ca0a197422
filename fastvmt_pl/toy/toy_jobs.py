"""Jobs of the toy world: clips, prompts that differ in all three words, and their scores."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import UInt8
from torch import Tensor

from fastvmt_pl.evaluation.tracks import Frames
from fastvmt_pl.toy.toy_tracker import ToyScore, score
from fastvmt_pl.toy.toy_world import (
    NUM_FRAMES,
    Appearance,
    Path,
    ToyClip,
    ToyWorld,
    combinations,
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
        image: The image that the video begins with: the object where the clip's first object starts.
    """

    clip: ToyClip
    item: Appearance
    background: str
    image: UInt8[Tensor, "height width 3"] | None = None

    @property
    def prompt(self) -> str:
        """The prompt."""
        return prompt_for([self.item], self.background)

    def image_psnr(self, frames: Frames) -> float:
        """Return the peak signal-to-noise ratio of a video's first frame to the image, in dB."""
        assert self.image is not None
        return float(10 * torch.log10(255**2 / (frames[0].float() - self.image.float()).square().mean()))

    def judge(self, frames: Frames) -> ToyScore:
        """Score a video of toy size against the prompt and the true path of the clip's first object."""
        return score(frames, self.item, self.background, self.clip.trajectories[0], self.clip.objects[0].colour)


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
) -> list[ToyJob]:
    """Return jobs whose prompts were not in the training data.

    Args:
        num_jobs: Number of jobs.
        split: ``tuning`` to choose settings, ``test`` to measure.
        num_objects: Objects per clip; the first is scored.
        camera: Whether the camera moves.
        paths: Kinds of path.
        images: Whether videos begin with an image.
    """
    world, jobs = ToyWorld(SEEDS[split], num_objects=num_objects, camera=camera, paths=paths), []
    for index in range(num_jobs):
        clip = world[index]
        item, background = random.Random(f"{split}/{index}").choice(other_looks(clip, held_out=True))
        image = None
        if images:
            start = clip.trajectories[:1, :1].expand(1, NUM_FRAMES, 2)
            draw = random.Random(f"{split}/{index}/image")
            image = render(draw, [item], background, start, torch.zeros(NUM_FRAMES, 2))[0]
        jobs.append(ToyJob(clip, item, background, image))
    return jobs
