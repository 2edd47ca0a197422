"""The region of a clip whose motion is carried over: read, checked and, from its first frame, followed."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch
from einops import rearrange, reduce
from jaxtyping import Bool, Float
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, max_pool2d

from fastvmt_pl.clips.clip import Clip, crop
from fastvmt_pl.clips.image import ENDINGS, UNREADABLE, decoded
from fastvmt_pl.clips.matching_video import read_matching
from fastvmt_pl.clips.video_reader import ClipError
from fastvmt_pl.errors import UserError
from fastvmt_pl.evaluation.tracks import Frames
from fastvmt_pl.objectives.grid import Grid
from fastvmt_pl.regions.cutting import box_of, subject_in
from fastvmt_pl.regions.following import follow
from fastvmt_pl.regions.moving import follow_moving, moving_besides
from fastvmt_pl.regions.painting import paint_over

RegionOf = Literal["subject", "background"]
Masks = Bool[Tensor, "frames height width"]
RegionGiven = str | Path | Sequence[float] | Tensor
"""A box, as text or four numbers; a file or folder of masks; masks of all frames or of the first; or ``auto``."""
FORMS = "a box x0,y0,x1,y1, a mask (picture, video or folder of pictures) or auto"
WHITE = 128
"""Brightest colour of a mask from which a pixel is inside."""
NEIGHBOURS = 2
"""Distance in tokens at which attention still reads a subject's motion."""
SHORTEST = 0.5
"""Share of a clip in which a region is at least."""
LEAST_BACKGROUND = 0.05
"""Share of the frames that is background at least, if its motion is wanted."""


@dataclass(frozen=True)
class Region:
    """The masks of a clip's region.

    Attributes:
        subject: The region in each frame of the clip.
        others: What moves against the background besides.
        of: What is carried over: the motion of what is inside, with the camera's around it, or the camera's alone.
    """

    subject: Masks
    others: Masks
    of: RegionOf = "subject"

    @property
    def hidden(self) -> Masks:
        """What is not to be seen when the clip's motion is read: attention would be drawn to it."""
        return self.others if self.of == "subject" else self.others | self.subject

    def box(self) -> tuple[float, float, float, float]:
        """Return the box around the region in the first frame, x0, y0, x1, y1, in pixels of the clip."""
        left, top, right, bottom = box_of(self.subject[0].numpy())
        return float(left), float(top), float(right), float(bottom)

    def painted(self, frames: Frames) -> Frames:
        """Return a clip's frames in which the background is painted over what is hidden."""
        kept = self.subject & ~self.hidden
        return torch.from_numpy(paint_over(frames.numpy(), self.hidden.numpy(), kept.numpy()))

    def tokens(
        self, num_frames: int, grid: Grid, size: tuple[int, int]
    ) -> tuple[Float[Tensor, "1 frames tokens"], Float[Tensor, "1 frames tokens"]]:
        """Return which tokens belong to the subject, and which to the background, as 0 and 1.

        Neighbours of the subject's tokens belong to it: attention reads motion with about the width of a token. What
        is hidden belongs to neither. If the background is wanted, there is no subject.

        Args:
            num_frames: Latent frames that the transformer sees.
            grid: Rows and columns of tokens in a frame.
            size: Height and width of the new video in pixels.
        """
        seen = token_shares(self.hidden, num_frames, grid, size) <= 0.5
        if self.of == "background":
            return torch.zeros_like(seen, dtype=torch.float32), seen.float()
        subject = _with_neighbours(token_shares(self.subject, num_frames, grid, size) > 0, grid)
        return (subject & seen).float(), (~subject & seen).float()


def parse_region(given: str | Path | Sequence[float]) -> tuple[float, float, float, float] | Path | Literal["auto"]:
    """Return what a text says of a region: a box, a file or folder, or ``auto``.

    >>> parse_region("10,20,110,220")
    (10.0, 20.0, 110.0, 220.0)

    Raises:
        UserError: If it is none of them.
    """
    if given == "auto":
        return "auto"
    if not str(given).strip():
        raise UserError(f"region is empty; give {FORMS}")
    try:
        numbers = [float(each) for each in (str(given).split(",") if isinstance(given, str | Path) else given)]
    except ValueError:
        path = Path(str(given))
        if not path.exists():
            raise UserError(f"region {given} does not exist; give {FORMS}") from None
        return path
    if (
        len(numbers) != 4
        or not all(map(math.isfinite, numbers))
        or numbers[0] >= numbers[2]
        or numbers[1] >= numbers[3]
    ):
        raise UserError(f"region {given} is no box; give x0,y0,x1,y1 with x0 < x1 and y0 < y1 in pixels of the clip")
    return numbers[0], numbers[1], numbers[2], numbers[3]


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
        given: A box in the clip's first frame, a mask of that frame, masks of all frames, or ``auto`` for all that
            moves against the background.
        of: What is carried over.
        clip: The clip.
        size: Height and width of the new video in pixels; what is cropped away counts as outside.
        source: What the clip was read from, for a mask video. Default: the clip itself.
        reading: How it was read: arguments of :func:`~fastvmt_pl.clips.read_clip`.

    Raises:
        UserError: If it is of another size or length than the clip, empty, or lost in the clip's first half; or if its
            background is wanted and there is hardly any.
    """
    shape, frames = clip.frames.shape[1:3], clip.frames.numpy()
    what = given if isinstance(given, Tensor) else parse_region(given)
    name = "region" if isinstance(given, Tensor) else f"region {given}"
    if isinstance(what, Tensor):
        masks = _as_masks(what, clip)
    elif what == "auto":
        masks = torch.from_numpy(follow_moving(frames))
    elif isinstance(what, tuple):
        masks = torch.from_numpy(follow(frames, subject_in(frames[0], _checked_box(what, shape))))
    elif what.suffix.lower() not in ENDINGS:
        masks = _read_masks(what, source or clip, clip, reading)
    else:
        mask = _read_mask(what)
        _check_size(name, tuple(mask.shape), shape)
        masks = torch.from_numpy(follow(frames, mask.numpy())) if mask.any() else mask.expand(len(frames), -1, -1)
    _check_size(name, tuple(masks.shape[1:]), shape)
    _check_there(name, masks, size)
    region = Region(masks, torch.from_numpy(moving_besides(frames, masks.numpy())), of)
    if of == "background" and not bool((~crop(region.hidden, size)).float().mean() >= LEAST_BACKGROUND):
        raise UserError(
            f"{name} and what moves besides cover the frame, so no background is left; use a smaller region"
        )
    return region


def token_shares(masks: Masks, num_frames: int, grid: Grid, size: tuple[int, int]) -> Float[Tensor, "1 latent tokens"]:
    """Return the share of each token that is inside, cropped as the clip is.

    A latent frame takes the masks of the frames that it stands for: the first of the first alone, as the autoencoders
    of video models do, and each other of as many.

    Args:
        masks: Masks in the clip's pixels.
        num_frames: Latent frames that the transformer sees.
        grid: Rows and columns of tokens in a frame.
        size: Height and width of the new video in pixels.
    """
    tokens = adaptive_avg_pool2d(crop(masks, size)[:, None].float(), grid)[:, 0]
    step = (len(masks) - 1) / max(1, num_frames - 1)
    belongs = [math.ceil(number / step - 1e-6) for number in range(len(masks))]
    frames = [reduce(tokens[[b == n for b in belongs]], "f h w -> h w", "mean") for n in range(num_frames)]
    return rearrange(torch.stack(frames), "f h w -> 1 f (h w)")


def _with_neighbours(tokens: Bool[Tensor, "1 frames tokens"], grid: Grid) -> Bool[Tensor, "1 frames tokens"]:
    maps = rearrange(tokens.float(), "1 f (h w) -> f 1 h w", h=grid[0])
    grown = max_pool2d(maps, 2 * NEIGHBOURS + 1, stride=1, padding=NEIGHBOURS)
    return rearrange(grown > 0, "f 1 h w -> 1 f (h w)")


def _as_masks(given: Tensor, clip: Clip) -> Masks:
    if given.ndim == 2:
        _check_size("region", tuple(given.shape), clip.frames.shape[1:3])
        return (
            torch.from_numpy(follow(clip.frames.numpy(), given.bool().numpy())) if given.any() else given.bool()[None]
        )
    if given.ndim != 3 or len(given) != len(clip.frames):
        raise UserError(f"region has the shape {list(given.shape)}; give [{len(clip.frames)} frames, height, width]")
    return given.bool()


def _checked_box(box: tuple[float, float, float, float], shape: Sequence[int]) -> tuple[int, int, int, int]:
    height, width = shape
    left, top, right, bottom = math.floor(box[0]), math.floor(box[1]), math.ceil(box[2]), math.ceil(box[3])
    if left < 0 or top < 0 or right > width or bottom > height:
        raise UserError(f"region {box} is outside the clip's frame of {width} x {height}; give a box inside it")
    return left, top, right, bottom


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
        raise UserError(
            f"{name} is {given[1]} x {given[0]}, the clip's frame {shape[1]} x {shape[0]}; bring the mask to that size"
        )


def _check_there(name: str, masks: Masks, size: tuple[int, int]) -> None:
    there = crop(masks, size).flatten(1).any(1).tolist()
    if not there[0] and not any(there):
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
        rank_zero_warn(
            f"{name} is gone after frame {last} of {len(there)}; from there on only the camera's motion counts"
        )
