"""Positions on a frame's grid of tokens, its tiles, and windows that stay inside it.

Positions are (row, column) in token cells; tokens are in row-major order.
"""

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor

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
