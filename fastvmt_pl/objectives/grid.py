"""Positions on a frame's grid of tokens, its tiles, and windows that stay inside it.

Positions are (row, column) in token cells; tokens are in row-major order.
"""

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

Grid = tuple[int, int]
"""Rows and columns, of tokens in a frame, or of a tile or window in tokens."""


def token_positions(grid: Grid, device: torch.device | str = "cpu") -> Float[Tensor, "tokens 2"]:
    """Return the position of every token of a frame.

    >>> token_positions((1, 2)).tolist()
    [[0.0, 0.0], [0.0, 1.0]]
    """
    rows, columns = (torch.arange(n, device=device, dtype=torch.float32) for n in grid)
    return torch.cartesian_prod(rows, columns)


def num_tiles(grid: Grid, tile: Grid) -> Grid:
    """Return how many tiles cover the grid down and across; the last ones may hang over."""
    return -(-grid[0] // tile[0]), -(-grid[1] // tile[1])


def tile_centre_tokens(grid: Grid, tile: Grid, device: torch.device | str = "cpu") -> Int[Tensor, "tiles"]:
    """Return the index of the middle token of each tile; of the part inside the grid where a tile hangs over."""
    axes = []
    for size, step in zip(grid, tile, strict=True):
        start = torch.arange(0, size, step, device=device)
        axes.append(start + ((start + step).clamp(max=size) - start - 1) // 2)
    return (axes[0][:, None] * grid[1] + axes[1]).flatten()


def window_size(grid: Grid, window: int) -> Grid:
    """Return the rows and columns of a window, which is never larger than the grid."""
    return min(window, grid[0]), min(window, grid[1])


def window_corners(centres: Int[Tensor, "*axes 2"], grid: Grid, window: int) -> Int[Tensor, "*axes 2"]:
    """Return the top left position of each window, shifted inward at a border so that the window stays whole.

    >>> window_corners(torch.tensor([[0, 5]]), (10, 10), 5).tolist()
    [[0, 3]]
    """
    rows, columns = window_size(grid, window)
    row = (centres[..., 0] - window // 2).clamp(0, grid[0] - rows)
    column = (centres[..., 1] - window // 2).clamp(0, grid[1] - columns)
    return torch.stack([row, column], -1)


def window_tokens(centres: Int[Tensor, "*axes 2"], grid: Grid, window: int) -> Int[Tensor, "*axes keys"]:
    """Return the indices of the tokens in each window, row by row."""
    rows, columns = (torch.arange(n, device=centres.device) for n in window_size(grid, window))
    corners = window_corners(centres, grid, window)
    inside = rearrange(rows, "r -> r 1") * grid[1] + columns
    return (corners[..., 0] * grid[1] + corners[..., 1])[..., None] + inside.flatten()


def split_tiles(tokens: Float[Tensor, "jobs frames tokens width"], grid: Grid, tile: Grid) -> Tensor:
    """Cut each frame's tokens into tiles, ``[jobs, frames, tiles, tokens_of_tile, width]``.

    Tiles that hang over the grid are filled up with zeros.
    """
    down, across = num_tiles(grid, tile)
    frames = rearrange(tokens, "jobs frames (h w) c -> jobs frames h w c", h=grid[0])
    frames = pad(frames, (0, 0, 0, across * tile[1] - grid[1], 0, down * tile[0] - grid[0]))
    return rearrange(frames, "b f (nh th) (nw tw) c -> b f (nh nw) (th tw) c", th=tile[0], tw=tile[1])


def join_tiles(tiles: Float[Tensor, "jobs frames tiles tokens_of_tile width"], grid: Grid, tile: Grid) -> Tensor:
    """Undo :func:`split_tiles`."""
    down, across = num_tiles(grid, tile)
    frames = rearrange(
        tiles, "b f (nh nw) (th tw) c -> b f (nh th) (nw tw) c", nh=down, nw=across, th=tile[0], tw=tile[1]
    )
    return rearrange(frames[:, :, : grid[0], : grid[1]], "b f h w c -> b f (h w) c")


def tile_means(
    values: Float[Tensor, "jobs frames tokens"], grid: Grid, tile: Grid
) -> Float[Tensor, "jobs frames tiles"]:
    """Return the mean over each tile's tokens; over those inside the grid where a tile hangs over.

    >>> tile_means(torch.tensor([[[1.0, 3.0, 5.0]]]), (1, 3), (1, 2)).tolist()
    [[[2.0, 5.0]]]
    """
    inside = torch.stack([values, torch.ones_like(values)], -1)
    totals = split_tiles(inside, grid, tile).sum(-2)
    means: Tensor = totals[..., 0] / totals[..., 1]
    return means
