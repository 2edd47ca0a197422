"""What a sample follows at one guided step: the reference's features."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from operator import or_

import torch
from jaxtyping import Float
from torch import Tensor

from fastvmt_pl.backbones.request import Capture, Request
from fastvmt_pl.objectives.feature import Measured, MotionFeature
from fastvmt_pl.objectives.grid import Grid
from fastvmt_pl.objectives.placement import CarriedPart


def joined_request(features: Iterable[MotionFeature]) -> Request:
    """Return a request for what some features read."""
    return reduce(or_, (feature.request for feature in features), Request())


@dataclass(frozen=True)
class MotionTarget:
    """The reference's motion at one guided step.

    Attributes:
        measured: What each feature measured. One row serves all jobs; several rows are one a job.
        motion: The feature of losses that name none of their own.
        grid: Rows and columns of tokens in a frame.
        num_frames: Latent frames that the transformer sees.
        region: Factor on the loss at each token; ``None`` is 1 everywhere. Rows as in ``measured``.
    """

    measured: Mapping[MotionFeature, Measured]
    motion: MotionFeature
    grid: Grid
    num_frames: int
    region: Float[Tensor, "jobs frames tokens"] | None = None

    @classmethod
    def extract(cls, capture: Capture, features: Sequence[MotionFeature]) -> "MotionTarget":
        """Measure features in a forward pass of the reference; losses read the first unless they name another."""
        hidden = [*capture.query.values(), *capture.unrotated_query.values(), *capture.hidden.values()]
        num_frames = hidden[0].shape[1] if hidden else capture.latents.shape[2]
        measured: dict[MotionFeature, Measured] = {feature: feature.extract(capture) for feature in features}
        return cls(measured, features[0], capture.grid, num_frames)

    @property
    def request(self) -> Request:
        """What a pass of the sample has to bring to be compared with it."""
        return joined_request(self.measured)

    def of(self, feature: MotionFeature | None) -> tuple[MotionFeature, Measured]:
        """Return a feature, by default the target's own, and what it measured."""
        feature = self.motion if feature is None else feature
        return feature, self.measured[feature]

    def following(self, capture: Capture) -> "MotionTarget":
        """Return the target as this pass of the sample is compared with it."""
        measured = {feature: feature.follow(found, capture) for feature, found in self.measured.items()}
        return replace(self, measured=measured)

    def carry(self, part: CarriedPart) -> "MotionTarget":
        """Return the motion of a part of the reference, at its place in the new video."""
        measured = {
            feature: feature.carry(found, part, self.grid, self.num_frames) for feature, found in self.measured.items()
        }
        return replace(self, measured=measured, region=None if part.background_weight == 1 else part.region(self.grid))

    def rows(self, numbers: list[int]) -> "MotionTarget":
        """Return some rows, each as often as it is named."""
        return self._mapped(lambda tensor: tensor[numbers])

    def of_jobs(self, jobs: list[int]) -> "MotionTarget":
        """Return the target of some jobs, by their numbers; a row that serves all jobs serves these."""
        return self._mapped(lambda tensor: tensor if len(tensor) == 1 else tensor[jobs])

    def to(self, device: torch.device | str) -> "MotionTarget":
        """Return the target on a device."""
        return self._mapped(lambda tensor: tensor.to(device))

    @staticmethod
    def stack(targets: Sequence["MotionTarget"]) -> "MotionTarget":
        """Join targets of equal geometry, job by job."""
        measured = {
            feature: {name: torch.cat([each.measured[feature][name] for each in targets]) for name in found}
            for feature, found in targets[0].measured.items()
        }
        regions = [each.region for each in targets if each.region is not None]
        return replace(targets[0], measured=measured, region=torch.cat(regions) if regions else None)

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> "MotionTarget":
        measured = {
            feature: {name: change(tensor) for name, tensor in found.items()}
            for feature, found in self.measured.items()
        }
        return replace(self, measured=measured, region=None if self.region is None else change(self.region))
