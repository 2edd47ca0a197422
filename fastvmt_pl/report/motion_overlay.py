"""The motion in a video, compact enough to draw over it on a web page."""

from typing import Any

import torch
from einops import rearrange
from torch.nn.functional import adaptive_avg_pool2d

from fastvmt_pl.evaluation import LucasKanade, dense_flow
from fastvmt_pl.evaluation.tracks import Frames

NUM_TRACKS = 80
"""Number of tracks to draw, those with the largest extent."""
NUM_ARROWS = 12
"""Arrows along the shorter side."""


def motion_overlay(frames: Frames) -> dict[str, Any]:
    """Return a video's tracks and flow, in thousandths of its height, as plain lists.

    Returns:
        ``tracks``: for each track, a position [x, y] for each frame, or ``None`` where it is not visible. ``flow``: for
        each step, rows of arrows [x, y]; ``rows`` and ``columns``: their numbers.
    """
    height, width = frames.shape[1:3]
    found = LucasKanade(num_points=200).track(frames)
    points, visible = found.points * (1000 / height), found.visible
    hidden = ~visible[..., None]
    extent = points.masked_fill(hidden, -torch.inf).amax(1) - points.masked_fill(hidden, torch.inf).amin(1)
    chosen = extent.norm(dim=-1).topk(min(NUM_TRACKS, len(points))).indices
    tracks = [
        [[round(x), round(y)] if seen else None for (x, y), seen in zip(path.tolist(), there.tolist(), strict=True)]
        for path, there in zip(points[chosen], visible[chosen], strict=True)
    ]
    shorter = min(height, width)
    rows, columns = round(NUM_ARROWS * height / shorter), round(NUM_ARROWS * width / shorter)
    flow = dense_flow(frames) * (1000 / height)
    arrows = rearrange(
        adaptive_avg_pool2d(rearrange(flow, "t h w xy -> t xy h w"), (rows, columns)), "t xy r c -> t r c xy"
    )
    return {"tracks": tracks, "flow": arrows.round().int().tolist(), "rows": rows, "columns": columns}
