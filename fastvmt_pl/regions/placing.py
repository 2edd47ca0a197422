"""The place of a region's motion in the new video: read, found in an image, and checked."""

import math
from collections.abc import Sequence

import cv2
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from fastvmt_pl.clips.clip import crop, cropped_box
from fastvmt_pl.errors import UserError
from fastvmt_pl.objectives.grid import Grid
from fastvmt_pl.objectives.placement import Placement
from fastvmt_pl.regions.box import Box, as_box, check_inside, read_numbers
from fastvmt_pl.regions.cutting import OUTSIDE, PROBABLY_INSIDE, box_of, cut_out, main_pieces
from fastvmt_pl.regions.region import Region, RegionOf

Shares = Box
"""A box in shares of the new video's frame."""
FORMS = "a box x0,y0,x1,y1, or scale,dx,dy, auto or same"
BORDER = 0.04
"""Width of the border of an image that is taken as background, as a share of its shorter side."""
LARGEST = 0.6
"""Largest share of an image that a clear subject fills."""
MAIN = 0.9
"""Smallest share of the foreground that belongs to a clear subject's largest piece."""


def parse_place(given: str | Sequence[float]) -> str | tuple[float, ...]:
    """Parse a place: the four numbers of a box, the three of scale and offset, ``auto`` or ``same``.

    >>> parse_place("0.5,-10,20")
    (0.5, -10.0, 20.0)

    Raises:
        UserError: If it is none of them.
    """
    if given in ("auto", "same"):
        return str(given)
    numbers = read_numbers(given) or ()
    is_move = len(numbers) == 3 and numbers[0] > 0 and all(map(math.isfinite, numbers))
    if not is_move and as_box(numbers) is None:
        raise UserError(f"place {given} cannot be used; give {FORMS}, in pixels")
    return numbers


def check_place(place: str | tuple[float, ...], region_of: RegionOf, with_image: bool) -> None:
    """Check what can be checked of a place without the clip.

    Raises:
        UserError: If there is no subject to be placed, or no image to find it in.
    """
    if place != "same" and region_of == "background":
        raise UserError("place moves a subject; leave it out with region_of background")
    if place == "auto" and not with_image:
        raise UserError("place auto finds the subject of an image, and there is none; give the box x0,y0,x1,y1")


def place_of(
    given: str | Sequence[float] | None,
    region: Region,
    size: tuple[int, int],
    image: UInt8[Tensor, "height width 3"] | None = None,
) -> Placement | None:
    """Return the place of a region's motion in the new video, or ``None`` if it is the same as in the clip.

    Args:
        given: The box of the subject in the image, or in the new video if there is no image; or scale, dx and dy in
            pixels of the new video, about the region's centre; ``auto`` finds the image's subject; ``same`` keeps the
            clip's place. Default: ``auto`` with an image, ``same`` without.
        region: The region.
        size: Height and width of the new video in pixels.
        image: The first frame of the new video.

    Raises:
        UserError: If the place cannot be used, or the region leaves the frame there.
    """
    if given is None:
        given = "same" if image is None or region.of == "background" else "auto"
    what = parse_place(given)
    if what == "same":
        return None
    check_place(what, region.of, image is not None)
    if not region.subject[0].any():
        raise UserError(f"place is {given}, but the region is not in the clip's first frame; set start, or place same")
    height, width = size
    source = in_shares(region.box(), region.subject.shape[1:], size)
    if isinstance(what, tuple) and len(what) == 3:
        scale, across, down = what
        placement = _about(source, scale, (down / height, across / width))
    else:
        shape = size if image is None else tuple(image.shape[:2])
        box = what if isinstance(what, tuple) else _subject_of(image, size)
        check_inside("place", box, shape)
        placement = between(source, in_shares(box, shape, size))
    _check_inside(placement, region, size)
    return placement


def check_seen(
    placement: Placement, subject: Float[Tensor, "1 frames tokens"], grid: Grid, size: tuple[int, int]
) -> None:
    """Check that a subject's motion has at least a token of the new video at its place, or it would have no effect.

    Args:
        placement: The place.
        subject: Which tokens of the clip belong to the subject, as 0 and 1.
        grid: Rows and columns of tokens in a frame.
        size: Height and width of the new video in pixels.

    Raises:
        UserError: If it is smaller there.
    """
    left, top, right, bottom = box_of(subject[0].amax(0).bool().view(grid).numpy())
    if placement.scale * min(right - left, bottom - top) < 1:
        raise UserError(
            f"at this place (scale {placement.scale:.3g}), the region is smaller than what the model can tell apart, "
            f"{size[0] // grid[0]} x {size[1] // grid[1]} pixels; use a larger scale or box"
        )


def between(source: Shares, target: Shares) -> Placement:
    """Return the placement that moves one box to the centre of another and scales it to its area.

    >>> between((0.0, 0.0, 0.5, 0.5), (0.5, 0.5, 0.75, 0.75))
    Placement(scale=0.5, offset=(0.5, 0.5))
    """
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (source, target)]
    (x, y), (new_x, new_y) = (((box[0] + box[2]) / 2, (box[1] + box[3]) / 2) for box in (source, target))
    return _about(source, math.sqrt(areas[1] / areas[0]), (new_y - y, new_x - x))


def in_shares(box: Sequence[float], shape: Sequence[int], size: tuple[int, int]) -> Shares:
    """Return a box of a picture in shares of the picture cropped to a size.

    Args:
        box: The box in pixels.
        shape: Height and width of the picture.
        size: Height and width of the new video.
    """
    left, top, width, height = cropped_box(shape, size)
    return (box[0] - left) / width, (box[1] - top) / height, (box[2] - left) / width, (box[3] - top) / height


def find_subject(picture: UInt8[Tensor, "height width 3"]) -> Box | None:
    """Return the box around a picture's subject, or ``None`` if no subject is clear.

    A subject is clear if nearly all of the foreground is one piece, inside the border and not too large.
    """
    pixels = picture.numpy()
    height, width = pixels.shape[:2]
    border = max(1, round(BORDER * min(height, width)))
    labels = np.full((height, width), OUTSIDE, np.uint8)
    labels[border:-border, border:-border] = PROBABLY_INSIDE
    found = cut_out(pixels, labels, 5)
    mask = main_pieces(found)
    count, _, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8))
    if count < 2 or mask.mean() > LARGEST or stats[1:, cv2.CC_STAT_AREA].max() < MAIN * found.sum():
        return None
    left, top, right, bottom = box_of(mask)
    inside = left > border and top > border and right < width - border and bottom < height - border
    return (float(left), float(top), float(right), float(bottom)) if inside else None


def _about(source: Shares, scale: float, shift: tuple[float, float]) -> Placement:
    """Return the placement that scales about the centre of a box and then shifts it, (down, right) in shares."""
    x, y = (source[0] + source[2]) / 2, (source[1] + source[3]) / 2
    return Placement(scale, (y + shift[0] - scale * y, x + shift[1] - scale * x))


def _subject_of(image: Tensor | None, size: tuple[int, int]) -> Box:
    assert image is not None  # as check_place has seen
    left, top, _, _ = cropped_box(image.shape[:2], size)
    box = find_subject(crop(image[None], size)[0].contiguous())
    if box is None:
        raise UserError(
            "place auto finds no clear subject in the image; give its box x0,y0,x1,y1 in pixels of the image, or same"
        )
    return box[0] + left, box[1] + top, box[2] + left, box[3] + top


def _check_inside(placement: Placement, region: Region, size: tuple[int, int]) -> None:
    """Raise ``UserError`` if the centre of the region leaves the frame at its place."""
    for number, mask in enumerate(crop(region.subject, size)):
        inside = mask.nonzero().float()
        if not len(inside):
            continue
        middle = placement((inside.mean(0) + 0.5) / torch.tensor(mask.shape))
        if not bool(((middle >= 0) & (middle <= 1)).all()):
            raise UserError(
                f"at this place, the region leaves the frame in frame {number + 1} of {len(region.subject)} (scale "
                f"{placement.scale:.2f}); use a smaller scale, or a place farther from the border"
            )
