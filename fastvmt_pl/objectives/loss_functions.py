"""The two losses of FastVMT as functions of one job each; jobs never influence each other.

Axes: ``jobs``, ``frames``, ``tokens`` (of a frame), ``heads``, ``dim`` (of a head), ``pairs`` (of frames), ``tiles``.
"""

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from fastvmt_pl.errors import UserError
from fastvmt_pl.objectives.attention_flow import Tokens, join_heads
from fastvmt_pl.objectives.frame_pairs import FramePairs
from fastvmt_pl.objectives.grid import Grid, window_corners, window_size


def motion_flow_loss(
    flow: Float[Tensor, "jobs pairs tokens 2"],
    reference: Float[Tensor, "#jobs pairs tokens 2"],
    weight: Float[Tensor, "pairs"],
) -> Float[Tensor, "jobs"]:
    """Squared difference of two flows, summed over tokens and components, weighted and averaged over pairs.

    FastVMT, section 3.2. Being a sum over a frame's tokens, it grows with the grid, and its weight means something
    else on another grid.

    Args:
        flow: The sample's flow in token cells.
        reference: The reference's flow in token cells.
        weight: Weight of each pair of frames.
    """
    return ((flow - reference).pow(2).sum((-2, -1)) * weight).mean(-1)


def corresponding_window_loss(
    key: Tokens,
    pairs: FramePairs,
    grid: Grid,
    centres: Int[Tensor, "jobs pairs tiles 2"],
    *,
    window: int = 21,
) -> Float[Tensor, "jobs"]:
    """Mean distance between the mean keys of a tile's windows in one frame and in the next (FastVMT, section 3.3).

    It needs no reference: it keeps the keys of one moving thing alike over time. The mean over a window is read from
    a summed-area table, so no window is gathered.

    Args:
        key: Keys of one block.
        pairs: Frames i and j of each pair.
        grid: Rows and columns of tokens in a frame.
        centres: Middle of each tile's window in frame j.
        window: Side of the square window in tokens.

    Raises:
        ValueError: If no frame i is paired with two frames j and j + 1, as with a span of 2.
    """
    follows = (pairs.first[1:] == pairs.first[:-1]) & (pairs.second[1:] == pairs.second[:-1] + 1)
    follows &= pairs.second[:-1] > pairs.first[:-1]
    consecutive = follows.nonzero().squeeze(1)
    if not len(consecutive):
        raise UserError("the window loss compares two later frames; use a span of 3 or more, or leave it out")
    means = _window_means(key, pairs, grid, centres, window)
    distance: Tensor = (means[:, 1:] - means[:, :-1])[:, consecutive].norm(dim=-1)
    return distance.mean((1, 2))


def _window_means(key: Tokens, pairs: FramePairs, grid: Grid, centres: Tensor, window: int) -> Tensor:
    """Return the mean key of each window, ``[jobs, pairs, tiles, width]``, in fp32."""
    frames = rearrange(join_heads(key).float(), "b f (h w) c -> b f h w c", h=grid[0])
    table = pad(frames.cumsum(2).cumsum(3), (0, 0, 1, 0, 1, 0))
    rows, columns = window_size(grid, window)
    top, left = window_corners(centres, grid, window).unbind(-1)
    job = torch.arange(len(key), device=key.device)[:, None, None]
    frame = pairs.second[None, :, None]
    total: Tensor = (
        table[job, frame, top + rows, left + columns]
        - table[job, frame, top, left + columns]
        - table[job, frame, top + rows, left]
        + table[job, frame, top, left]
    )
    means: Tensor = total / (rows * columns)
    return means
