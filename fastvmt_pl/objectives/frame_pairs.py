"""Pairs of frames between which motion is measured."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fastvmt_pl.errors import UserError


@dataclass(frozen=True)
class FramePairs:
    """Ordered pairs of latent frames (i, j) with i < j, by i and then by j, and the weight of each in the loss."""

    first: Int[Tensor, "pairs"]
    second: Int[Tensor, "pairs"]
    weight: Float[Tensor, "pairs"]

    def to(self, device: torch.device | str) -> "FramePairs":
        """Return the pairs on a device."""
        return FramePairs(self.first.to(device), self.second.to(device), self.weight.to(device))


def frame_pairs(num_frames: int, span: int | None = 4, *, include_same: bool = False) -> FramePairs:
    """List the pairs i < j < i + span of FastVMT, weighted by frame distance (section 3.2).

    A distance of n frames weighs ``linspace(1, 0.8, span)[n]``: 0.933, 0.867 and 0.8 at the paper's span of 4.

    >>> pairs = frame_pairs(3, span=2)
    >>> list(zip(pairs.first.tolist(), pairs.second.tolist()))
    [(0, 1), (1, 2)]

    Args:
        num_frames: Latent frames.
        span: Distance in frames that a pair stays below; ``None`` takes all pairs i < j with equal weight.
        include_same: Also count each frame with itself, as the published code of FastVMT does.

    Raises:
        ValueError: If ``num_frames`` or ``span`` leave no pair.
    """
    if span is not None and span < 2:
        raise UserError(f"span is {span}; pairs of different frames need a span of 2 or more (the paper's is 4)")
    if num_frames < 2:
        raise UserError(f"{num_frames} latent frame has no motion; use a clip of more frames")
    reach = num_frames if span is None else span
    weights = torch.ones(reach) if span is None else torch.linspace(1, 0.8, reach)
    nearest = 0 if include_same else 1
    pairs = [(i, j) for i in range(num_frames) for j in range(i + nearest, min(num_frames, i + reach))]
    first, second = torch.tensor(pairs).unbind(1)
    return FramePairs(first, second, weights[second - first])
