"""Attention motion flow (AMF): where the tokens of one frame look in another.

Of a block's self-attention between frames i and j, the logits are the mean over heads of ``q_i k_j^T / sqrt(dim)``
times a temperature; after a softmax over the tokens of frame j alone, the flow of a token is the expected position of
what it attends to, less its own position, in token cells. DiTFlow (CVPR 2025, section 3.2) takes it over all tokens;
FastVMT (arXiv 2602.05551, section 3.2) looks, for each tile of tokens, only into a window around where the tile went.

The mean over heads of products is the product of the joined heads, so everything here is one wide head.

Axes: ``jobs``, ``frames``, ``tokens`` (of a frame), ``heads``, ``dim`` (of a head), ``pairs`` (of frames), ``tiles``.
"""

import math

import torch
from einops import rearrange, repeat
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention
from torch.utils.checkpoint import checkpoint

from fastvmt_pl.backbones.request import FrameTokens
from fastvmt_pl.objectives.frame_pairs import FramePairs
from fastvmt_pl.objectives.grid import (
    Grid,
    join_tiles,
    split_tiles,
    tile_centre_tokens,
    token_positions,
    window_tokens,
)

MAX_LOGITS = 2**26
"""Logits held at a time; pairs of frames beyond that follow in turn, and are computed again for the backward pass."""


def join_heads(tokens: FrameTokens) -> Float[Tensor, "jobs frames tokens width"]:
    """Lay the heads of each token side by side."""
    return rearrange(tokens, "jobs frames tokens heads dim -> jobs frames tokens (heads dim)")


def logit_scale(tokens: FrameTokens, temperature: float) -> float:
    """Return the factor that turns products of joined heads into logits."""
    heads, dim = tokens.shape[-2:]
    return temperature / (heads * math.sqrt(dim))


def global_motion_flow(
    query: FrameTokens, key: FrameTokens, pairs: FramePairs, grid: Grid, *, temperature: float = 1.0
) -> Float[Tensor, "jobs pairs tokens 2"]:
    """Return the flow of every token under attention to the whole other frame.

    This is attention whose values are the grid's positions, so no matrix of tokens by tokens is built. The values are
    padded to the keys' width, without which PyTorch picks the kernel that builds it. It runs in fp32, because in
    bf16 the expected position alone is off by up to a quarter of a cell.

    Args:
        query: Queries of one block; with rotary embedding or without.
        key: Keys of the same block.
        pairs: Frames i and j of each pair.
        grid: Rows and columns of tokens in a frame.
        temperature: Factor on the logits; 1 in FastVMT, 2 in DiTFlow.

    Returns:
        Flow (down, right) in token cells, in fp32.
    """
    jobs, width = len(query), query.shape[-2] * query.shape[-1]
    positions = token_positions(grid, query.device)
    values = repeat(pad(positions, (0, width - 2)), "t w -> (j p) 1 t w", j=jobs, p=len(pairs.first))
    attended = scaled_dot_product_attention(
        rearrange(join_heads(query).float()[:, pairs.first], "j p t w -> (j p) 1 t w"),
        rearrange(join_heads(key).float()[:, pairs.second], "j p t w -> (j p) 1 t w"),
        values,
        scale=logit_scale(query, temperature),
    )
    return rearrange(attended[..., :2], "(j p) 1 t xy -> j p t xy", j=jobs) - positions


@torch.no_grad()
def window_centres(
    query: FrameTokens,
    key: FrameTokens,
    pairs: FramePairs,
    grid: Grid,
    *,
    tile: Grid = (3, 4),
    temperature: float = 1.0,
) -> Int[Tensor, "jobs pairs tiles 2"]:
    """Return where each tile of frame i went in frame j: the cell nearest to what its middle token attends to.

    Args:
        query: Queries of one block.
        key: Keys of the same block.
        pairs: Frames i and j of each pair.
        grid: Rows and columns of tokens in a frame.
        tile: Rows and columns of tokens in a tile, which need not divide the grid.
        temperature: Factor on the logits.
    """
    middle = join_heads(query)[:, :, tile_centre_tokens(grid, tile, query.device)]
    queries = middle.float()[:, pairs.first] * logit_scale(query, temperature)
    attention = (queries @ join_heads(key).float()[:, pairs.second].mT).softmax(-1)
    return (attention @ token_positions(grid, query.device)).round().long()


def windowed_motion_flow(
    query: FrameTokens,
    key: FrameTokens,
    pairs: FramePairs,
    grid: Grid,
    centres: Int[Tensor, "jobs pairs tiles 2"],
    *,
    tile: Grid = (3, 4),
    window: int = 21,
    temperature: float = 1.0,
) -> Float[Tensor, "jobs pairs tokens 2"]:
    """Return the flow of every token under attention to the keys in its tile's window.

    Args:
        query: Queries of one block; with rotary embedding or without.
        key: Keys of the same block.
        pairs: Frames i and j of each pair.
        grid: Rows and columns of tokens in a frame.
        centres: Middle of each tile's window in frame j, from :func:`window_centres`.
        tile: Rows and columns of tokens in a tile, which need not divide the grid.
        window: Side of the square window in tokens; cut to the grid where it is larger.
        temperature: Factor on the logits.

    Returns:
        Flow (down, right) in token cells, in fp32. Equal to :func:`global_motion_flow` when the window covers the grid.
    """
    queries, keys = join_heads(query)[:, pairs.first], join_heads(key)[:, pairs.second]
    inside = window_tokens(centres, grid, window)
    positions, scale = token_positions(grid, query.device), logit_scale(query, temperature)
    step = max(1, MAX_LOGITS // (len(query) * positions.shape[0] ** 2))
    parts = zip(queries.split(step, 1), keys.split(step, 1), inside.split(step, 1), strict=True)
    # One part needs no second computation: its logits are few enough to keep for the backward pass.
    attend = _attend if queries.shape[1] <= step else _attend_again_backwards
    tiles = torch.cat([attend(q, k, i, positions, scale, grid, tile) for q, k, i in parts], 1)
    return join_tiles(tiles, grid, tile) - positions


def _attend(
    query: Tensor, key: Tensor, inside: Tensor, positions: Tensor, scale: float, grid: Grid, tile: Grid
) -> Tensor:
    """Return the expected position over each tile's window, in fp32.

    It takes the logits of the whole frame and then picks each tile's. Picking the keys of each window first needs fewer
    products, but copies every key for each of the many windows that it is in, which takes longer and far more memory.
    """
    logits = split_tiles((query.float() * scale) @ key.float().mT, grid, tile)
    windows = logits.gather(-1, repeat(inside, "b p tiles keys -> b p tiles tokens keys", tokens=tile[0] * tile[1]))
    return windows.softmax(-1) @ positions[inside]


def _attend_again_backwards(*args: Tensor | float | Grid) -> Tensor:
    """Attend without keeping the logits for the backward pass."""
    attended: Tensor = checkpoint(_attend, *args, use_reentrant=False)
    return attended
