"""Find the objects of toy clips by colour, and score videos against the prompt and the true path.

A pixel has a colour of the toy world if its distance in RGB is below :data:`MAX_DISTANCE` and smaller than to the other
seven colours. The threshold excludes anti-aliased edges and the brightest texture of every background.
"""

from dataclasses import dataclass

import torch
from einops import rearrange, reduce
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import max_pool2d

from fastvmt_pl.evaluation.dense_flow import dense_flow
from fastvmt_pl.evaluation.tracks import Frames
from fastvmt_pl.regions.following import resized
from fastvmt_pl.toy.toy_world import BACKGROUNDS, COLOURS, Appearance

MAX_DISTANCE = 80.0
"""Largest distance in RGB (0 to 255) between a pixel and its colour; two colours are at least 90 apart."""
MIN_AREA = 40
"""Smallest area of an object in pixels; the smallest object drawn has over 100."""
LEAK_SIDE = 3
"""Side in pixels of the smallest solid square of the reference's colour that counts as a leak. Every object drawn
contains one. Edges of yellow on a dark background look orange, in true clips too, but they are thinner."""
MAIN_PIECE = 0.9
"""Smallest share of an object's pixels in its largest connected piece for it to count as one piece."""
FLOW_SCALE = 3
"""Enlargement of frames for dense flow."""
SHARES = ("present", "one_piece", "background", "leak_free", "appearance")
"""Scores that are shares of a video's frames."""


@dataclass(frozen=True)
class ToyScore:
    """Scores of a video: shares of frames in which it shows its prompt, and its path error.

    Attributes:
        present: Share of frames with an object of the prompted colour.
        one_piece: Share of frames in which that object is in one piece.
        background: Share of frames with the prompted background.
        leak_free: Share of frames without the reference's colour; 1 without a reference.
        appearance: Share of frames with the prompted colour, the prompted background and no leak.
        path_error: Relative path error; not a number without a reference.
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
    """Return the share of each mask's pixels in its largest 8-connected piece; 0 if it is empty."""
    labels = torch.arange(1.0, mask[0].numel() + 1).view(mask.shape[1:]) * mask
    while True:  # the largest label spreads through each piece
        spread = max_pool2d(labels[:, None], 3, stride=1, padding=1)[:, 0] * mask
        if torch.equal(spread, labels):
            break
        labels = spread
    sizes = [frame[frame > 0].unique(return_counts=True)[1] for frame in labels]
    return torch.tensor([float(size.max() / size.sum()) if len(size) else 0.0 for size in sizes])


def holds_square(mask: Bool[Tensor, "frames height width"], side: int) -> Bool[Tensor, "frames"]:
    """Return which masks contain a solid square of pixels."""
    eroded = -max_pool2d(-mask[:, None].float(), side, stride=1)
    return eroded.flatten(1).any(1)


def centroids(mask: Bool[Tensor, "frames height width"]) -> Float[Tensor, "frames 2"]:
    """Return the mean position (x, y) of each mask in pixels; not a number without an object."""
    area = mask.flatten(1).sum(1).float()
    y, x = (torch.arange(n, dtype=torch.float32) for n in mask.shape[1:])
    centre = torch.stack([(mask.sum(1) * x).sum(1) / area, (mask.sum(2) * y).sum(1) / area], 1)
    return torch.where(area[:, None] >= MIN_AREA, centre, torch.nan)


def relative_path_error(path: Float[Tensor, "frames 2"], truth: Float[Tensor, "frames 2"]) -> float:
    """Return ``mean |(p - mean p) - (t - mean t)| / mean |t - mean t|`` of a path p and the truth t.

    1 for an object that does not move, 0 for the true motion anywhere in the picture. In a frame without an object, the
    path is at its mean.
    """
    moved = (path - path.nanmean(0)).nan_to_num(0.0)
    true = truth - truth.mean(0)
    return float((moved - true).norm(dim=1).mean() / true.norm(dim=1).mean())


def share_followed(path: Float[Tensor, "frames 2"], truth: Float[Tensor, "frames 2"]) -> float:
    """Return how much of a true motion a path has: the factor on it that is nearest to the path.

    1 for the true motion, 0 for none of it, such as an object that does not move.
    """
    moved, true = (path - path.nanmean(0)).nan_to_num(0.0), truth - truth.mean(0)
    return float((moved * true).sum() / true.square().sum())


def camera_error(frames: Frames, colour: str, camera: Float[Tensor, "frames 2"]) -> float:
    """Return the mean error of the background's motion as a share of the camera's: 1 for a background that is still.

    Its motion is the median of dense flow, away from the object, in enlarged frames: textures of this world are large.

    Args:
        frames: The video.
        colour: The object's colour.
        camera: Displacement of the background since the first frame, in pixels.
    """
    large = torch.from_numpy(resized(frames.numpy(), FLOW_SCALE * min(frames.shape[1:3])))
    flow = reduce(dense_flow(large), "f (h a) (w b) xy -> f h w xy", "mean", a=FLOW_SCALE, b=FLOW_SCALE) / FLOW_SCALE
    near = max_pool2d(colour_mask(frames, colour)[:, None].float(), 7, stride=1, padding=3)[:, 0] > 0
    found = torch.stack([step[~hidden].median(0).values for step, hidden in zip(flow, near[:-1], strict=True)])
    true = camera.diff(dim=0)
    return float((found - true).norm(dim=1).mean() / true.norm(dim=1).mean())


def background_of(frames: Frames) -> list[str]:
    """Return the background of each frame: the nearest to the median of the pixels without a colour."""
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
        item: The object of the prompt.
        background: The background of the prompt.
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
