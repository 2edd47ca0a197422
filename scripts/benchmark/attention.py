"""Part c: windowed against global attention motion flow as the grid grows."""

from collections.abc import Callable
from functools import partial

import torch
from measure import MIB, medians, table
from torch import Tensor

from fastvmt_pl.objectives.frame_pairs import frame_pairs
from fastvmt_pl.objectives.motion_flow import global_motion_flow, window_centres, windowed_motion_flow
from fastvmt_pl.processes.peak_memory import PeakMemory

HEADS, HEAD_DIM = 12, 128
"""Those of Wan 2.1 1.3B."""
GRIDS = (((12, 12), 7), ((16, 24), 21), ((30, 52), 21))
"""Rows and columns of tokens, and the side of the window; the last is that of 480 x 832 pixels."""
NUM_FRAMES = 12
"""As many that the pairs of the largest grid no longer fit into one part, as those of a real video."""


def forward_backward(flow: Callable[..., Tensor], query: Tensor, key: Tensor) -> None:
    """Compute a flow, and the gradient of the sum of its squares."""
    flow(query, key).pow(2).sum().backward()
    query.grad = key.grad = None


def compare(grid: tuple[int, int], window: int, repeats: int, device: str) -> list[str]:
    """Return the row of one grid."""
    generator = torch.Generator().manual_seed(0)
    shape = (1, NUM_FRAMES, grid[0] * grid[1], HEADS, HEAD_DIM)
    query, key = (torch.randn(shape, generator=generator).to(device).requires_grad_() for _ in range(2))
    pairs = frame_pairs(NUM_FRAMES).to(device)
    centres = window_centres(query, key, pairs, grid)
    flows = {
        "global": lambda query, key: global_motion_flow(query, key, pairs, grid),
        "windowed": lambda query, key: windowed_motion_flow(query, key, pairs, grid, centres, window=window),
    }
    sides = {name: partial(forward_backward, flow, query, key) for name, flow in flows.items()}
    seconds = medians(sides, repeats, device)
    peak = {name: _peak(run, device) for name, run in sides.items()}
    return [
        f"{grid[0]} x {grid[1]}, {window}",
        *(f"{seconds[name]:.3f}" for name in sides),
        f"**{seconds['windowed'] / seconds['global']:.2f}**",
        *(f"{peak[name]:.0f}" for name in sides),
        f"**{peak['windowed'] / peak['global']:.2f}**",
    ]


def _peak(run: Callable[[], None], device: str) -> float:
    with PeakMemory(device) as peak:
        run()
    return peak.num_bytes / MIB


def part_c(repeats: int, device: str) -> str:
    """Compare the two on growing grids, in fp32, forward and backward."""
    header = ["c. Grid, window", "global, seconds", "windowed, seconds", "ratio"]
    header += ["global, peak MiB", "windowed, peak MiB", "ratio"]
    rows = [compare(grid, window, repeats, device) for grid, window in GRIDS]
    return table(header, rows) + (
        f"\n{NUM_FRAMES} latent frames, {HEADS} heads x {HEAD_DIM}, fp32, forward and backward. Peak MiB is the most "
        "that tensors take beyond queries and keys, as PyTorch's allocator counts it.\n"
    )
