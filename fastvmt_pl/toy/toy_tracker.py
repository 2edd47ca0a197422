"""Find the objects of toy clips by colour, and score videos against the prompt and the true path.

A pixel has a colour of the toy world if it is nearer than :data:`MAX_DISTANCE` to it in RGB, and nearer than to any
other of the eight. The thresholds leave out anti-aliased edges and the brightest texture of every background.
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from jaxtyping import Bool, Float, UInt8
from torch import Tensor
from torch.nn.functional import max_pool2d

from fastvmt_pl.toy.toy_world import BACKGROUNDS, COLOURS, Appearance

MAX_DISTANCE = 80.0
"""Distance in RGB (0 to 255) up to which a pixel counts as a colour; two colours are at least 90 apart."""
MIN_AREA = 40
"""Pixels of its colour that an object has at least; the smallest drawn has over 100."""
LEAK_SIDE = 3
"""Side in pixels of the smallest solid square of the reference's colour that counts as a leak. Every object drawn holds
one; the edges of yellow on a dark background look orange, in true clips too, but they are thinner."""
MAIN_PIECE = 0.9
"""Share of an object's pixels that its largest connected piece holds when it is in one piece."""
SHARES = ("present", "one_piece", "background", "leak_free", "appearance")
"""Scores that are shares of a video's frames."""

Frames = UInt8[Tensor, "frames height width 3"]


@dataclass(frozen=True)
class ToyScore:
    """How a video fares against its prompt, as shares of its frames, and against a true path.

    Attributes:
        present: An object of the prompted colour is there.
        one_piece: It is there, in one piece.
        background: The background is the prompted one.
        leak_free: Nothing has the reference's colour; 1 if there is no reference.
        appearance: An object of the prompted colour is there, on the prompted background, and nothing leaked.
        path_error: Relative path error; not a number if there is no reference.
    """

    present: float
    one_piece: float
    background: float
    leak_free: float
    appearance: float
    path_error: float


def colour_mask(frames: Frames, colour: str) -> Bool[Tensor, "frames height width"]:
    """Return which pixels have a colour of the toy world."""
    palette = torch.tensor(list(COLOURS.values()), dtype=torch.float32)
    distance = torch.cdist(rearrange(frames, "f h w c -> (f h w) c").float(), palette)
    nearest = distance.min(1)
    mask = (nearest.indices == list(COLOURS).index(colour)) & (nearest.values < MAX_DISTANCE)
    return mask.view(frames.shape[:3])


def largest_piece(mask: Bool[Tensor, "frames height width"]) -> Float[Tensor, "frames"]:
    """Return the share of each mask that its largest connected piece (by edges and corners) holds; 0 if it is empty."""
    labels = torch.arange(1.0, mask[0].numel() + 1).view(mask.shape[1:]) * mask
    while True:  # a label spreads through its whole piece
        spread = max_pool2d(labels[:, None], 3, stride=1, padding=1)[:, 0] * mask
        if torch.equal(spread, labels):
            break
        labels = spread
    sizes = [frame[frame > 0].unique(return_counts=True)[1] for frame in labels]
    return torch.tensor([float(size.max() / size.sum()) if len(size) else 0.0 for size in sizes])


def holds_square(mask: Bool[Tensor, "frames height width"], side: int) -> Bool[Tensor, "frames"]:
    """Return which masks hold a solid square of pixels."""
    eroded = -max_pool2d(-mask[:, None].float(), side, stride=1)
    return eroded.flatten(1).any(1)


def centroids(mask: Bool[Tensor, "frames height width"]) -> Float[Tensor, "frames 2"]:
    """Return the mean position (x, y) of each mask in pixels; not a number where there is no object."""
    area = mask.flatten(1).sum(1).float()
    y, x = (torch.arange(n, dtype=torch.float32) for n in mask.shape[1:])
    centre = torch.stack([(mask.sum(1) * x).sum(1) / area, (mask.sum(2) * y).sum(1) / area], 1)
    return torch.where(area[:, None] >= MIN_AREA, centre, torch.nan)


def relative_path_error(path: Float[Tensor, "frames 2"], truth: Float[Tensor, "frames 2"]) -> float:
    """Return the mean distance of two paths, each less its mean, over the mean distance of the truth from its mean.

    1 is what an object that stands still gets, 0 the true motion wherever it takes place. A frame without an object
    counts as one in which it stands at its mean.
    """
    moved = (path - path.nanmean(0)).nan_to_num(0.0)
    true = truth - truth.mean(0)
    return float((moved - true).norm(dim=1).mean() / true.norm(dim=1).mean())


def background_of(frames: Frames) -> list[str]:
    """Return the name of the background that is nearest to the median of the pixels of no colour, frame by frame."""
    palette = torch.tensor(list(COLOURS.values()), dtype=torch.float32)
    distance = torch.cdist(rearrange(frames, "f h w c -> (f h w) c").float(), palette).amin(1).view(frames.shape[:3])
    names, values = list(BACKGROUNDS), torch.tensor(list(BACKGROUNDS.values()), dtype=torch.float32)
    found = []
    for frame, far in zip(frames, distance >= MAX_DISTANCE, strict=True):
        median = frame[far].float().median(0).values if far.any() else frame.flatten(0, 1).float().median(0).values
        found.append(names[int((values - median).norm(dim=1).argmin())])
    return found


def score(
    frames: Frames,
    item: Appearance,
    background: str,
    truth: Float[Tensor, "frames 2"] | None = None,
    reference_colour: str | None = None,
) -> ToyScore:
    """Score a video of one object.

    Args:
        frames: The video.
        item: What the prompt asks for.
        background: The background that the prompt asks for.
        truth: The reference object's path in pixels.
        reference_colour: The reference object's colour.
    """
    mask = colour_mask(frames, item.colour)
    present = mask.flatten(1).sum(1) >= MIN_AREA
    whole = present & (largest_piece(mask) >= MAIN_PIECE)
    right = torch.tensor([name == background for name in background_of(frames)])
    leaked = torch.zeros_like(present)
    if reference_colour is not None:
        leaked = holds_square(colour_mask(frames, reference_colour), LEAK_SIDE)
    error = float("nan") if truth is None else relative_path_error(centroids(mask), truth)
    shares = (present, whole, right, ~leaked, present & right & ~leaked)
    present_share, whole_share, right_share, clean_share, appearance = (float(each.float().mean()) for each in shares)
    return ToyScore(present_share, whole_share, right_share, clean_share, appearance, error)
