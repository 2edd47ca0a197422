"""The region of a clip whose motion is transferred: read, checked and followed from the first frame."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, max_pool2d

from fastvmt_pl.clips.clip import Clip, crop, cropped_box
from fastvmt_pl.clips.image import ENDINGS, UNREADABLE, decoded
from fastvmt_pl.clips.matching_video import read_matching
from fastvmt_pl.clips.video_reader import ClipError
from fastvmt_pl.errors import UserError
from fastvmt_pl.evaluation.tracks import Frames
from fastvmt_pl.objectives.grid import Grid
from fastvmt_pl.regions.box import Box, as_box, check_inside, read_numbers
from fastvmt_pl.regions.camera import camera_path, small_flow
from fastvmt_pl.regions.cutting import box_of, subject_in
from fastvmt_pl.regions.following import follow
from fastvmt_pl.regions.moving import follow_moving, moving_besides
from fastvmt_pl.regions.painting import paint_over

RegionOf = Literal["subject", "background"]
Masks = Bool[Tensor, "frames height width"]
RegionGiven = str | Path | Sequence[float] | Tensor
"""A box as text or four numbers, a file or folder of masks, a tensor of one or all masks, or ``auto``."""
FORMS = "a box x0,y0,x1,y1, a mask (picture, video or folder of pictures) or auto"
WHITE = 128
"""Smallest value, in the brightest colour channel, of a pixel inside a mask."""
NEIGHBOURS = 2
"""Distance in tokens at which attention still reads a subject's motion."""
SHORTEST = 0.5
"""Smallest share of a clip that a region may last."""
LEAST_BACKGROUND = 0.05
"""Smallest share of the frames that must be background if its motion is transferred."""


@dataclass(frozen=True)
class Region:
    """The masks of a clip's region.

    Attributes:
        subject: The region in each frame of the clip.
        others: Everything else that moves against the background, in each frame.
        of: Whether the subject's motion is transferred, with the camera's around it, or the camera's alone.
        camera: If the camera's alone is, the maps of :func:`~fastvmt_pl.regions.camera.camera_path`, in shares of the
            frame after the crop.
    """

    subject: Masks
    others: Masks
    of: RegionOf = "subject"
    camera: Float[Tensor, "frames 3 3"] | None = None

    @property
    def hidden(self) -> Masks:
        """The pixels that are painted over before motion is read, since they would distract attention."""
        return self.others if self.of == "subject" else self.others | self.subject

    def camera_path(self, num_frames: int) -> Float[Tensor, "1 latent 3 3"] | None:
        """Return the camera's maps from the first latent frame to each, if its motion alone is transferred."""
        return None if self.camera is None else latent_means(self.camera, num_frames)[None]

    def box(self) -> Box:
        """Return the box around the region in the first frame, in pixels of the clip."""
        left, top, right, bottom = box_of(self.subject[0].numpy())
        return float(left), float(top), float(right), float(bottom)

    def painted(self, frames: Frames) -> Frames:
        """Return a clip's frames with the background painted over what is hidden."""
        kept = self.subject & ~self.hidden
        return torch.from_numpy(paint_over(frames.numpy(), self.hidden.numpy(), kept.numpy()))

    def tokens(
        self, num_frames: int, grid: Grid, size: tuple[int, int]
    ) -> tuple[Float[Tensor, "1 frames tokens"], Float[Tensor, "1 frames tokens"]]:
        """Return which tokens belong to the subject, and which to the background, as 0 and 1.

        The subject includes the tokens around it, because attention locates motion to about a token. Hidden tokens
        belong to neither. The subject is empty if the background's motion is transferred.

        Args:
            num_frames: Number of latent frames in the transformer's input.
            grid: Rows and columns of tokens in a frame.
            size: Height and width of the new video in pixels.
        """
        seen = token_shares(self.hidden, num_frames, grid, size) <= 0.5
        if self.of == "background":
            return torch.zeros_like(seen, dtype=torch.float32), seen.float()
        subject = _with_neighbours(token_shares(self.subject, num_frames, grid, size) > 0, grid)
        return (subject & seen).float(), (~subject & seen).float()


def parse_region(given: str | Path | Sequence[float]) -> Box | Path | Literal["auto"]:
    """Parse a region: a box, a file or folder, or ``auto``.

    >>> parse_region("10,20,110,220")
    (10.0, 20.0, 110.0, 220.0)

    Raises:
        UserError: If it is none of them.
    """
    if given == "auto":
        return "auto"
    if not str(given).strip():
        raise UserError(f"region is empty; give {FORMS}")
    numbers = read_numbers(given)
    if numbers is None:
        path = Path(str(given))
        if not path.exists():
            raise UserError(f"region {given} does not exist; give {FORMS}")
        return path
    box = as_box(numbers)
    if box is None:
        raise UserError(f"region {given} is not a box; give x0,y0,x1,y1 with x0 < x1 and y0 < y1 in pixels of the clip")
    return box


def find_region(
    given: RegionGiven,
    of: RegionOf,
    clip: Clip,
    size: tuple[int, int],
    source: str | Path | Clip | None = None,
    reading: Mapping[str, Any] = MappingProxyType({}),
) -> Region:
    """Return the region of a clip.

    Args:
        given: A box in the clip's first frame, a mask of that frame, masks of all frames, or ``auto`` for everything
            that moves against the background, which may be nothing if the background's motion is transferred.
        of: Whose motion is transferred.
        clip: The clip.
        size: Height and width of the new video in pixels. What is cropped away counts as outside.
        source: What the clip was read from, for a mask video. Default: the clip itself.
        reading: Arguments of :func:`~fastvmt_pl.clips.read_clip` that it was read with.

    Raises:
        UserError: If the region differs from the clip in size or length, is empty, or is lost in its first half; or if
            its background is wanted and there is hardly any.
    """
    shape, frames = clip.frames.shape[1:3], clip.frames.numpy()
    flow = small_flow(frames)
    what: Box | Path | Tensor | str = given if isinstance(given, Tensor) else parse_region(given)
    name = "region" if isinstance(given, Tensor) else f"region {given}"
    if isinstance(what, tuple):
        check_inside("region", what, shape)
        left, top, right, bottom = math.floor(what[0]), math.floor(what[1]), math.ceil(what[2]), math.ceil(what[3])
        what = torch.from_numpy(subject_in(frames[0], (left, top, right, bottom)))
    elif isinstance(what, Path) and what.suffix.lower() in ENDINGS:
        what = _read_mask(what)
    if isinstance(what, Tensor):
        masks = what.bool()
    elif isinstance(what, Path):
        masks = _read_masks(what, source or clip, clip, reading)
    else:
        masks = torch.from_numpy(follow_moving(frames, flow))
    _check_size(name, tuple(masks.shape[-2:]), shape)
    if masks.ndim == 2:
        masks = torch.from_numpy(follow(frames, masks.numpy())) if masks.any() else masks.expand(len(frames), -1, -1)
    if masks.ndim != 3 or len(masks) != len(frames):
        raise UserError(f"{name} has the shape {list(masks.shape)}; give [{len(frames)} frames, height, width]")
    if name != "region auto" or of == "subject":
        _check_there(name, masks, size)
    region = Region(masks, torch.from_numpy(moving_besides(frames, flow, masks.numpy())), of)
    if of == "subject":
        return region
    if not bool((~crop(region.hidden, size)).float().mean() >= LEAST_BACKGROUND):
        raise UserError(
            f"{name} and what moves besides cover the frame, so no background is left; use a smaller region"
        )
    return replace(region, camera=camera_path(flow, region.hidden.numpy(), cropped_box(shape, size)))


def token_shares(masks: Masks, num_frames: int, grid: Grid, size: tuple[int, int]) -> Float[Tensor, "1 latent tokens"]:
    """Return the share of each token that is inside masks cropped like the clip.

    Args:
        masks: Masks in the clip's pixels.
        num_frames: Number of latent frames in the transformer's input.
        grid: Rows and columns of tokens in a frame.
        size: Height and width of the new video in pixels.
    """
    tokens = adaptive_avg_pool2d(crop(masks, size)[:, None].float(), grid)[:, 0]
    return rearrange(latent_means(tokens, num_frames), "f h w -> 1 f (h w)")


def latent_means(values: Float[Tensor, "frames *axes"], num_frames: int) -> Float[Tensor, "latent *axes"]:
    """Return the mean over the frames of each latent frame.

    The first latent frame stands for the first frame alone, as in the autoencoders of video models; the others stand
    for equal numbers of frames.
    """
    step = (len(values) - 1) / max(1, num_frames - 1)
    belongs = [math.ceil(number / step - 1e-6) for number in range(len(values))]
    return torch.stack([values[[b == n for b in belongs]].mean(0) for n in range(num_frames)])


def _with_neighbours(tokens: Bool[Tensor, "1 frames tokens"], grid: Grid) -> Bool[Tensor, "1 frames tokens"]:
    maps = rearrange(tokens.float(), "1 f (h w) -> f 1 h w", h=grid[0])
    grown = max_pool2d(maps, 2 * NEIGHBOURS + 1, stride=1, padding=NEIGHBOURS)
    return rearrange(grown > 0, "f 1 h w -> 1 f (h w)")


def _read_mask(path: Path) -> Bool[Tensor, "height width"]:
    try:
        return torch.from_numpy(decoded(path).max(-1) >= WHITE)
    except UNREADABLE as error:
        raise UserError(
            f"region {path} cannot be used ({error}); give a PNG, white inside and black outside"
        ) from error


def _read_masks(path: Path, source: str | Path | Clip, clip: Clip, reading: Mapping[str, Any]) -> Masks:
    try:
        return read_matching(path, source, clip, reading).frames.amax(-1) >= WHITE
    except ClipError as error:
        raise UserError(f"region {path} cannot be used: {error}") from error


def _check_size(name: str, given: tuple[int, ...], shape: Sequence[int]) -> None:
    if given != tuple(shape):
        found = " x ".join(map(str, reversed(given)))
        raise UserError(f"{name} is {found}, the clip's frame {shape[1]} x {shape[0]}; resize the mask to that size")


def _check_there(name: str, masks: Masks, size: tuple[int, int]) -> None:
    there = crop(masks, size).flatten(1).any(1).tolist()
    if not any(there) and name == "region auto":
        raise UserError("region is auto, but nothing moves against the background; give a box or a mask")
    if not any(there):
        raise UserError(
            f"{name} is empty in the part of the clip that is used; check that its inside is white, or change size"
        )
    last = max(number for number, inside in enumerate(there) if inside) + 1
    if last < SHORTEST * len(there) and name == "region auto":
        raise UserError(
            f"region is auto, but nothing moves after frame {last} of {len(there)}; give a box or a mask, or a shorter "
            "interval with end"
        )
    if last < SHORTEST * len(there):
        raise UserError(
            f"{name} is lost after frame {last} of {len(there)}; give a mask video, or a shorter interval with end"
        )
    if last < len(there):
        rank_zero_warn(f"{name} is lost after frame {last} of {len(there)}; later frames keep the camera's motion only")
