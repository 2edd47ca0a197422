"""The losses of motion transfer as torchmetrics metrics: chosen and weighted in the config, logged like any metric."""

from abc import abstractmethod
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric

from fastvmt_pl.errors import UserError
from fastvmt_pl.objectives.attention_flow import Tokens
from fastvmt_pl.objectives.loss_functions import corresponding_window_loss, motion_flow_loss
from fastvmt_pl.objectives.motion_target import MotionSettings, MotionTarget


class MotionLoss(Metric):
    """A loss of a sample's queries and keys against a motion target.

    Calling it returns the batch's loss, summed over jobs, with its gradient; ``compute`` gives the mean over all calls
    since the last ``reset``. Jobs are independent, so nothing is ever synchronised between processes.

    Args:
        weight: Factor on the loss in the total.

    Raises:
        ValueError: If the weight is negative.
    """

    is_differentiable = True
    higher_is_better = False
    full_state_update = False
    total: Tensor
    count: Tensor
    name: ClassVar[str]
    """Name in logs."""

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__(sync_on_compute=False)
        if weight < 0:
            raise UserError(f"weight of {type(self).__name__} is {weight}; use 0 or more")
        self.weight = weight
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, query: Tokens, key: Tokens, target: MotionTarget) -> None:
        """Add a batch, given the sample's queries and keys of the block that the target was read from."""
        self.total = self.total + self.per_job(query, key, target).sum()
        self.count = self.count + 1

    def compute(self) -> Float[Tensor, ""]:
        """Return the loss, summed over jobs, averaged over calls, without the weight."""
        return self.total / self.count

    def check_target(self, num_frames: int, settings: MotionSettings) -> None:
        """Raise ``ValueError`` if the loss cannot be computed on so many latent frames, read so."""

    @abstractmethod
    def per_job(self, query: Tokens, key: Tokens, target: MotionTarget) -> Float[Tensor, "jobs"]:
        """Return the loss of each job."""


class MotionFlowLoss(MotionLoss):
    """Squared difference between the sample's motion flow and the reference's (FastVMT, section 3.2).

    A sum over a frame's tokens, so that the paper's weight of 5 belongs to the paper's grid of 30 x 52 tokens.
    """

    name = "motion_flow"

    def __init__(self, weight: float = 5.0) -> None:
        super().__init__(weight)

    def per_job(self, query: Tokens, key: Tokens, target: MotionTarget) -> Float[Tensor, "jobs"]:
        """Return the loss of each job, in squared token cells."""
        return motion_flow_loss(target.flow_of(query, key), target.flow, target.pairs.weight)


class WindowLoss(MotionLoss):
    """Distance between the mean keys of corresponding windows in consecutive frames (FastVMT, section 3.3).

    Args:
        weight: Factor on the loss in the total.
        window: Side of its square windows in tokens; ``None`` takes the motion flow's.
    """

    name = "window"

    def __init__(self, weight: float = 1.0, window: int | None = None) -> None:
        super().__init__(weight)
        if window is not None and window < 1:
            raise UserError(f"window of {type(self).__name__} is {window}; use a side of at least 1 token, or null")
        self.window = window

    def check_target(self, num_frames: int, settings: MotionSettings) -> None:
        """Raise ``ValueError`` unless a frame is paired with two later ones."""
        if num_frames < 3 or (settings.span is not None and settings.span < 3):
            raise UserError(
                f"the window loss compares two later frames, but there are {num_frames} latent frames and the span is "
                f"{settings.span}; use more frames, a span of 3 or more, or leave that loss out"
            )

    def per_job(self, query: Tokens, key: Tokens, target: MotionTarget) -> Float[Tensor, "jobs"]:
        """Return the loss of each job, in units of the keys."""
        window = self.window or target.settings.window or max(target.grid)  # neither can be 0
        centres = target.centres.expand(len(key), -1, -1, -1)
        return corresponding_window_loss(key, target.pairs, target.grid, centres, window=window)
