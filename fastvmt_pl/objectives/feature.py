"""What an objective reads: a feature of the reference, measured again in the sample."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

from torch import Tensor

from fastvmt_pl.backbones.request import Capture, Request
from fastvmt_pl.errors import UserError
from fastvmt_pl.objectives.grid import Grid
from fastvmt_pl.objectives.placement import CarriedPart

Measured = Mapping[str, Tensor]
"""What a feature measured, by name, with one row a job."""


class MotionFeature(ABC):
    """How motion is read from a forward pass.

    Subclasses are frozen dataclasses of settings. Equal ones are read once a pass, and their settings are part of the
    key under which the reference's motion is cached.
    """

    @property
    @abstractmethod
    def request(self) -> Request:
        """What a forward pass has to bring."""

    @abstractmethod
    def extract(self, capture: Capture) -> dict[str, Tensor]:
        """Measure the reference, and choose what is chosen once, such as windows; one row a job."""

    def follow(self, reference: Measured, capture: Capture) -> Measured:
        """Return the reference as this pass of the sample is compared with it. By default, it stays as it is."""
        return reference

    def carry(self, reference: Measured, part: CarriedPart, grid: Grid, num_frames: int) -> Measured:
        """Return the reference's motion in a part of the clip, at its place in the new video.

        Args:
            reference: What was measured of the whole reference.
            part: The part.
            grid: Rows and columns of tokens in a frame.
            num_frames: Latent frames that the transformer sees.

        Raises:
            UserError: If the feature has no places.
        """
        raise UserError(f"{type(self).__name__} has no places; leave region and place out")

    def check(self, num_frames: int) -> None:
        """Raise ``UserError`` if the feature cannot be read from so many latent frames; at least two have motion."""
        if num_frames < 2:
            raise UserError(f"{num_frames} latent frame has no motion; use a clip of more frames")
