"""The attention motion flow (AMF) as an objective: the feature, and the loss on it (FastVMT, section 3.2)."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fastvmt_pl.backbones.request import Capture, FrameTokens, Request
from fastvmt_pl.errors import UserError
from fastvmt_pl.objectives.feature import Measured, MotionFeature
from fastvmt_pl.objectives.frame_pairs import FramePairs, frame_pairs
from fastvmt_pl.objectives.grid import Grid, tile_centre_tokens, token_positions
from fastvmt_pl.objectives.motion_flow import global_motion_flow, window_centres, windowed_motion_flow
from fastvmt_pl.objectives.motion_loss import MotionLoss, Places
from fastvmt_pl.objectives.placement import CarriedPart, camera_flow, path_flow, placed

CAMERA_SHARE = 0.75
"""Share of a camera's measured motion that is asked of attention, which reads less than the true motion.

Chosen on tuning jobs of the toy world: six with 0.75 and 1, two with 0.5.
"""


@dataclass(frozen=True)
class AttentionFlow(MotionFeature):
    """Motion read from a block's self-attention. The defaults are the paper's for Wan 2.1 at 480 x 832.

    It measures ``flow``, the motion flow in token cells, ``[jobs, pairs, tokens, 2]``, and ``centres``, the middle of
    each tile's window in the later frame of a pair, (row, column) in token cells, ``[jobs, pairs, tiles, 2]``.

    Args:
        block: Transformer block whose self-attention is read, counted from 0.
        window: Side of the square window in tokens; ``None`` looks at the whole frame (global AMF).
        tile: Rows and columns of tokens that share a window.
        span: Pairs of frames are less than this many latent frames apart; ``None`` takes all pairs.
        temperature: Factor on the attention logits.
        rotary: Read queries and keys after the rotary embedding, as attention does, or before it.
        include_same: Also count each frame with itself, as the published code does.
        centres: The sample is read in windows around where the reference's tiles went, or, as in the published code,
            around where its own go.

    Raises:
        UserError: If a count is out of range, saying which.
    """

    block: int = 14
    window: int | None = 21
    tile: Grid = (3, 4)
    span: int | None = 4
    temperature: float = 1.0
    rotary: bool = True
    include_same: bool = False
    centres: Literal["reference", "sample"] = "reference"

    def __post_init__(self) -> None:
        """Check what needs no backbone to be checked."""
        if self.block < 0:
            raise UserError(f"block is {self.block}; blocks are counted from 0")
        if self.window is not None and self.window < 1:
            raise UserError(f"window is {self.window}; use a side of at least 1 token, or null for the whole frame")
        if min(self.tile) < 1:
            raise UserError(f"tile is {list(self.tile)}; use at least 1 row and 1 column of tokens")
        if self.span is not None and self.span < 2:
            raise UserError(f"span is {self.span}; use 2 or more, or null for all pairs of frames")
        if self.temperature <= 0:
            raise UserError(f"temperature is {self.temperature}; use a positive number (the paper's is 1)")

    @property
    def request(self) -> Request:
        """Queries and keys of the block."""
        block = frozenset({self.block})
        return Request(query_key=block) if self.rotary else Request(unrotated=block)

    def read(self, capture: Capture) -> tuple[FrameTokens, FrameTokens]:
        """Return the block's queries and keys."""
        if self.rotary:
            return capture.query[self.block], capture.key[self.block]
        return capture.unrotated_query[self.block], capture.unrotated_key[self.block]

    def pairs(self, num_frames: int) -> FramePairs:
        """Return the pairs of latent frames between which motion is measured."""
        return frame_pairs(num_frames, self.span, include_same=self.include_same)

    def extract(self, capture: Capture) -> dict[str, Tensor]:
        """Measure flow, in windows that are chosen here."""
        centres = self._centres(capture)
        return {"flow": self.flow(capture, centres), "centres": centres}

    def follow(self, reference: Measured, capture: Capture) -> Measured:
        """Put the windows where the sample's own tiles go, if these are chosen."""
        return reference if self.centres == "reference" else {**reference, "centres": self._centres(capture)}

    def carry(self, reference: Measured, part: CarriedPart, grid: Grid, num_frames: int) -> Measured:
        """Return flow and windows of a part: the subject's at its place, the background's, and the camera's elsewhere.

        Flow and displacements of windows are scaled as the subject is.
        """
        flow, pairs = reference["flow"], self.pairs(num_frames)
        subject, background = part.subject[:, pairs.first], part.background[:, pairs.first]
        if part.camera is None:
            camera = camera_flow(flow, background, grid)
        else:
            camera, background = path_flow(part.camera, pairs.first, pairs.second, grid), torch.zeros_like(background)
        rest = background[..., None] * flow + (1 - background[..., None]) * camera
        if part.placement is not None:
            share = placed(subject[..., None], part.placement, grid)
            carried = placed(subject[..., None] * flow, part.placement, grid) * part.placement.scale
            flow, subject = carried / share.clamp(min=1e-6), share[..., 0]
        inside, outside = subject[..., None] * flow, (1 - subject[..., None]) * rest
        flow = inside + outside
        middle = tile_centre_tokens(grid, self.tile, flow.device)
        went = (token_positions(grid, flow.device)[middle] + flow[:, :, middle]).round().long()
        own = (1 - subject) * background + (subject if part.placement is None else 0)
        stays = own[:, :, middle, None] > 0.5
        asked = flow if part.camera is None else inside + CAMERA_SHARE * outside
        return {**reference, "flow": asked, "centres": torch.where(stays, reference["centres"], went)}

    def flow(
        self, capture: Capture, centres: Int[Tensor, "#jobs pairs tiles 2"]
    ) -> Float[Tensor, "jobs pairs tokens 2"]:
        """Return the motion flow, windowed or global."""
        query, key = self.read(capture)
        pairs, grid = self.pairs(query.shape[1]).to(query.device), capture.grid
        if self.window is None:
            return global_motion_flow(query, key, pairs, grid, temperature=self.temperature)
        centres = centres.expand(len(query), -1, -1, -1)
        return windowed_motion_flow(
            query, key, pairs, grid, centres, tile=self.tile, window=self.window, temperature=self.temperature
        )

    def _centres(self, capture: Capture) -> Int[Tensor, "jobs pairs tiles 2"]:
        query, key = self.read(capture)
        pairs = self.pairs(query.shape[1]).to(query.device)
        return window_centres(query, key, pairs, capture.grid, tile=self.tile, temperature=self.temperature)


def squared_flow_difference(
    flow: Float[Tensor, "jobs pairs tokens 2"],
    reference: Float[Tensor, "#jobs pairs tokens 2"],
    weight: Float[Tensor, "pairs"],
) -> Float[Tensor, "jobs pairs tokens"]:
    """Return the summands of the motion flow loss: squared differences, weighted and averaged over pairs.

    FastVMT, section 3.2. Being a sum over a frame's tokens, the loss grows with the grid, and its weight means
    something else on another grid.

    Args:
        flow: The sample's flow in token cells.
        reference: The reference's flow in token cells.
        weight: Weight of each pair of frames.
    """
    return (flow - reference).pow(2).sum(-1) * weight[:, None] / len(weight)


class MotionFlowLoss(MotionLoss):
    """Squared difference between the sample's motion flow and the reference's (FastVMT, section 3.2).

    A sum over a frame's tokens, so that the paper's weight of 5 belongs to the paper's grid of 30 x 52 tokens.

    Args:
        weight: Factor on the loss in the total.
        feature: What it reads; default: the datamodule's ``motion``.
    """

    name = "motion_flow"

    def __init__(self, weight: float = 5.0, feature: AttentionFlow | None = None) -> None:
        super().__init__(weight, feature)

    def per_place(self, capture: Capture, feature: MotionFeature, reference: Measured) -> Places:
        """Return the summands of each job's loss, in squared token cells."""
        assert isinstance(feature, AttentionFlow)
        flow = feature.flow(capture, reference["centres"])
        pairs = feature.pairs(feature.read(capture)[0].shape[1]).to(flow.device)
        return Places(squared_flow_difference(flow, reference["flow"], pairs.weight), pairs.first)
