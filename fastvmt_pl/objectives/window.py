"""The window loss: corresponding windows of consecutive frames have like keys (FastVMT, section 3.3).

Axes: ``jobs``, ``frames``, ``tokens`` (of a frame), ``heads``, ``dim`` (of a head), ``pairs`` (of frames), ``tiles``.
"""

import torch
from einops import rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from fastvmt_pl.backbones.request import Capture, FrameTokens
from fastvmt_pl.errors import UserError
from fastvmt_pl.objectives.attention_flow import AttentionFlow
from fastvmt_pl.objectives.feature import Measured, MotionFeature
from fastvmt_pl.objectives.frame_pairs import FramePairs
from fastvmt_pl.objectives.grid import Grid, window_corners, window_size
from fastvmt_pl.objectives.motion_flow import join_heads
from fastvmt_pl.objectives.motion_loss import MotionLoss, Places


def consecutive_pairs(pairs: FramePairs) -> Int[Tensor, "rows"]:
    """Return the indices of pairs (i, j) that are followed by (i, j + 1), with j after i.

    Raises:
        UserError: If there are none, as with a span of 2.
    """
    follows = (pairs.first[1:] == pairs.first[:-1]) & (pairs.second[1:] == pairs.second[:-1] + 1)
    follows &= pairs.second[:-1] > pairs.first[:-1]
    consecutive = follows.nonzero().squeeze(1)
    if not len(consecutive):
        raise UserError("the window loss compares two later frames; use a span of 3 or more, or leave it out")
    return consecutive


def window_distances(
    key: FrameTokens,
    pairs: FramePairs,
    grid: Grid,
    centres: Int[Tensor, "jobs pairs tiles 2"],
    *,
    window: int = 21,
) -> Float[Tensor, "jobs rows tiles"]:
    """Return the summands of the window loss: distances between mean keys of a tile's windows in consecutive frames.

    The loss is their mean over rows (the pairs of :func:`consecutive_pairs`) and tiles, so each is divided by that
    number. It needs no reference: it keeps the keys of one moving thing alike over time. The mean over a window is
    read from a summed-area table, so no window is gathered.

    Args:
        key: Keys of one block.
        pairs: Frames i and j of each pair.
        grid: Rows and columns of tokens in a frame.
        centres: Middle of each tile's window in frame j.
        window: Side of the square window in tokens.

    Raises:
        UserError: If no frame i is paired with two frames j and j + 1, as with a span of 2.
    """
    means = _window_means(key, pairs, grid, centres, window)
    distance: Tensor = (means[:, 1:] - means[:, :-1])[:, consecutive_pairs(pairs)].norm(dim=-1)
    return distance / distance[0].numel()


def _window_means(key: FrameTokens, pairs: FramePairs, grid: Grid, centres: Tensor, window: int) -> Tensor:
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


class WindowLoss(MotionLoss):
    """Distance between the mean keys of corresponding windows in consecutive frames (FastVMT, section 3.3).

    Args:
        weight: Factor on the loss in the total.
        window: Side of its square windows in tokens; default: the motion flow's.
        feature: What it reads; default: the datamodule's ``motion``.

    Raises:
        UserError: If the weight or the window is out of range.
    """

    name = "window"

    def __init__(self, weight: float = 1.0, window: int | None = None, feature: AttentionFlow | None = None) -> None:
        super().__init__(weight, feature)
        if window is not None and window < 1:
            raise UserError(f"window of {type(self).__name__} is {window}; use a side of at least 1 token, or null")
        self.window = window

    def check(self, num_frames: int, motion: MotionFeature) -> None:
        """Raise ``UserError`` unless a frame is paired with two later ones."""
        super().check(num_frames, motion)
        feature = self.feature or motion
        assert isinstance(feature, AttentionFlow)
        if num_frames < 3 or (feature.span is not None and feature.span < 3):
            raise UserError(
                f"the window loss compares two later frames, but there are {num_frames} latent frames and the span is "
                f"{feature.span}; use more frames, a span of 3 or more, or leave that loss out"
            )

    def per_place(self, capture: Capture, feature: MotionFeature, reference: Measured) -> Places:
        """Return the summands of each job's loss, in units of the keys."""
        assert isinstance(feature, AttentionFlow)
        _, key = feature.read(capture)
        pairs = feature.pairs(key.shape[1]).to(key.device)
        window = self.window or feature.window or max(capture.grid)  # neither can be 0
        centres = reference["centres"].expand(len(key), -1, -1, -1)
        distances = window_distances(key, pairs, capture.grid, centres, window=window)
        return Places(distances, pairs.first[consecutive_pairs(pairs)], feature.tile)
