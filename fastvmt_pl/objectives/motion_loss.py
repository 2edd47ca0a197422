"""The base of all losses of motion transfer: torchmetrics metrics, chosen and weighted in the config."""

from abc import abstractmethod
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import Metric

from fastvmt_pl.backbones.request import Capture
from fastvmt_pl.errors import UserError
from fastvmt_pl.objectives.feature import Measured, MotionFeature
from fastvmt_pl.objectives.grid import Grid, tile_means
from fastvmt_pl.objectives.motion_target import MotionTarget


class Places(NamedTuple):
    """A loss by place and time, so that a region can weigh it.

    Attributes:
        values: Summands of each job's loss.
        frames: The latent frame of each row.
        tile: Rows and columns of tokens that a place stands for.
    """

    values: Float[Tensor, "jobs rows places"]
    frames: Int[Tensor, "rows"]
    tile: Grid = (1, 1)


class MotionLoss(Metric):
    """A loss of a sample's forward pass against a motion target.

    Calling it returns the batch's loss, summed over jobs, with its gradient; ``compute`` gives the mean over all calls
    since the last ``reset``. Jobs are independent, so nothing is ever synchronised between processes. A region of the
    target multiplies the loss of every place here, whatever the loss.

    To write one, subclass it, return the summands of the loss from :meth:`per_place`, and name the class in the config.

    Args:
        weight: Factor on the loss in the total.
        feature: What it reads; default: the datamodule's ``motion``.

    Raises:
        UserError: If the weight is negative.
    """

    is_differentiable = True
    higher_is_better = False
    full_state_update = False
    total: Tensor
    count: Tensor
    name: ClassVar[str]
    """Name in logs."""

    def __init__(self, weight: float = 1.0, feature: MotionFeature | None = None) -> None:
        super().__init__(sync_on_compute=False)
        if weight < 0:
            raise UserError(f"weight of {type(self).__name__} is {weight}; use 0 or more")
        self.weight, self.feature = weight, feature
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("count", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, capture: Capture, target: MotionTarget) -> None:
        """Add a batch, given what the sample's forward pass brought."""
        self.total = self.total + self.per_job(capture, target).sum()
        self.count = self.count + 1

    def compute(self) -> Float[Tensor, ""]:
        """Return the loss, summed over jobs, averaged over calls, without the weight."""
        return self.total / self.count

    def per_job(self, capture: Capture, target: MotionTarget) -> Float[Tensor, "jobs"]:
        """Return the loss of each job, every place weighted by the target's region."""
        values, frames, tile = self.per_place(capture, *target.of(self.feature))
        if target.region is not None:
            values = values * tile_means(target.region, target.grid, tile)[:, frames]
        return values.sum((1, 2))

    @abstractmethod
    def per_place(self, capture: Capture, feature: MotionFeature, reference: Measured) -> Places:
        """Return the summands of each job's loss.

        Args:
            capture: What the sample's forward pass brought.
            feature: What is read.
            reference: What the feature measured of the reference: one row, or one a job.
        """

    def check(self, num_frames: int, motion: MotionFeature) -> None:
        """Raise ``UserError`` if the loss cannot be computed.

        Args:
            num_frames: Latent frames that the transformer sees.
            motion: The datamodule's feature.
        """
        (self.feature or motion).check(num_frames)
