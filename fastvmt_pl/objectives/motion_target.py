"""What a sample is to follow at one guided step: the reference's motion and how it was measured."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from fastvmt_pl.errors import UserError
from fastvmt_pl.objectives.attention_flow import Tokens, global_motion_flow, window_centres, windowed_motion_flow
from fastvmt_pl.objectives.frame_pairs import FramePairs, frame_pairs
from fastvmt_pl.objectives.grid import Grid


@dataclass(frozen=True)
class MotionSettings:
    """How motion is read from a backbone's attention. The defaults are the paper's for Wan 2.1 at 480 x 832.

    Args:
        block: Transformer block whose self-attention is read, counted from 0.
        window: Side of the square window in tokens; ``None`` looks at the whole frame (global AMF, as in DiTFlow).
        tile: Rows and columns of tokens that share a window.
        span: Pairs of frames are less than this many latent frames apart; ``None`` takes all pairs.
        temperature: Factor on the attention logits.
        rotary: Read queries and keys after the rotary embedding, as attention does, or before it.
        include_same: Also count each frame with itself, as the published code does.

    Raises:
        ValueError: If a count is out of range, saying which.
    """

    block: int = 14
    window: int | None = 21
    tile: Grid = (3, 4)
    span: int | None = 4
    temperature: float = 1.0
    rotary: bool = True
    include_same: bool = False

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

    def flow(
        self, query: Tokens, key: Tokens, pairs: FramePairs, grid: Grid, centres: Tensor
    ) -> Float[Tensor, "jobs pairs tokens 2"]:
        """Return the motion flow, windowed or global as the settings say."""
        if self.window is None:
            return global_motion_flow(query, key, pairs, grid, temperature=self.temperature)
        return windowed_motion_flow(
            query, key, pairs, grid, centres, tile=self.tile, window=self.window, temperature=self.temperature
        )

    def centres(self, query: Tokens, key: Tokens, pairs: FramePairs, grid: Grid) -> Int[Tensor, "jobs pairs tiles 2"]:
        """Return the middle of each tile's window."""
        return window_centres(query, key, pairs, grid, tile=self.tile, temperature=self.temperature)


@dataclass(frozen=True)
class MotionTarget:
    """The reference's motion at one guided step, for one job or for several.

    Attributes:
        flow: The reference's motion flow in token cells.
        centres: Middle of each tile's window in frame j, (row, column) in token cells.
        grid: Rows and columns of tokens in a frame.
        num_frames: Latent frames.
        settings: How the motion was read, and is to be read from the sample.
    """

    flow: Float[Tensor, "jobs pairs tokens 2"]
    centres: Int[Tensor, "jobs pairs tiles 2"]
    grid: Grid
    num_frames: int
    settings: MotionSettings

    @classmethod
    def extract(cls, query: Tokens, key: Tokens, grid: Grid, settings: MotionSettings) -> "MotionTarget":
        """Measure the motion in a block's queries and keys."""
        pairs = frame_pairs(query.shape[1], settings.span, include_same=settings.include_same).to(query.device)
        centres = settings.centres(query, key, pairs, grid)
        return cls(settings.flow(query, key, pairs, grid, centres), centres, grid, query.shape[1], settings)

    @property
    def pairs(self) -> FramePairs:
        """Frames i and j of each pair, and its weight."""
        pairs = frame_pairs(self.num_frames, self.settings.span, include_same=self.settings.include_same)
        return pairs.to(self.flow.device)

    def flow_of(self, query: Tokens, key: Tokens) -> Float[Tensor, "jobs pairs tokens 2"]:
        """Return a sample's flow, measured as the reference's was, in the same windows."""
        return self.settings.flow(query, key, self.pairs, self.grid, self.centres.expand(len(query), -1, -1, -1))

    def with_centres_of(self, query: Tokens, key: Tokens) -> "MotionTarget":
        """Return the same target with windows around where the sample's own tiles go."""
        return replace(self, centres=self.settings.centres(query, key, self.pairs, self.grid))

    def of_jobs(self, jobs: list[int]) -> "MotionTarget":
        """Return the target of some jobs, by their numbers; one that serves all jobs serves these."""
        return self if len(self.flow) == 1 else replace(self, flow=self.flow[jobs], centres=self.centres[jobs])

    def to(self, device: torch.device | str) -> "MotionTarget":
        """Return the target on a device."""
        return replace(self, flow=self.flow.to(device), centres=self.centres.to(device))

    @classmethod
    def stack(cls, targets: list["MotionTarget"]) -> "MotionTarget":
        """Join targets of equal geometry, job by job."""
        flow, centres = torch.cat([t.flow for t in targets]), torch.cat([t.centres for t in targets])
        return replace(targets[0], flow=flow, centres=centres)
