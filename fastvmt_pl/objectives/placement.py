"""Move a reference's motion to another place of the frame, and to another size.

Positions are (row, column) as shares of the frame, so that one map serves pixels, latents and tokens.
"""

from dataclasses import dataclass

import torch
from einops import einsum, rearrange
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import grid_sample

from fastvmt_pl.objectives.grid import Grid, token_positions

NUM_FITS = 6
DEVIATION = 0.25
"""Deviation from the camera's flow in token cells that halves a token's weight."""


@dataclass(frozen=True)
class Placement:
    """The map ``scale * position + offset`` from places in the reference to places in the new video.

    The scale is the same down and across, so that directions of motion stay as they are.

    Attributes:
        scale: Size in the new video as a share of that in the reference.
        offset: Shift down and right, as shares of the frame.
    """

    scale: float
    offset: tuple[float, float]

    def __call__(self, positions: Float[Tensor, "*axes 2"]) -> Float[Tensor, "*axes 2"]:
        """Return where places of the reference are in the new video.

        >>> Placement(0.5, (0.0, 0.25))(torch.tensor([0.5, 0.5])).tolist()
        [0.25, 0.5]
        """
        return self.scale * positions + positions.new_tensor(self.offset)

    def inverse(self) -> "Placement":
        """Return the map back."""
        down, across = self.offset
        return Placement(1 / self.scale, (-down / self.scale, -across / self.scale))

    def sample(
        self, values: Float[Tensor, "batch tokens channels"], grid: Grid, nearest: bool = False
    ) -> Float[Tensor, "batch tokens channels"]:
        """Return values of the reference's tokens at the places of the new video; what comes from outside is 0.

        Args:
            values: Values of each token, in row-major order.
            grid: Rows and columns of tokens.
            nearest: Take the nearest token's value, instead of interpolating.
        """
        size = torch.tensor(grid, dtype=torch.float32, device=values.device)
        sources = self.inverse()((token_positions(grid, values.device) + 0.5) / size)
        points = rearrange(2 * sources.flip(-1) - 1, "(h w) xy -> 1 h w xy", h=grid[0]).expand(len(values), -1, -1, -1)
        maps = rearrange(values.float(), "b (h w) c -> b c h w", h=grid[0])
        found = grid_sample(maps, points, mode="nearest" if nearest else "bilinear", align_corners=False)
        return rearrange(found, "b c h w -> b (h w) c")


@dataclass(frozen=True)
class CarriedPart:
    """Which part of a reference's motion is transferred: a subject's, and that of the background around it.

    Elsewhere the camera's motion is: where other things move, and where the subject was if it has another place.

    Attributes:
        subject: Whether each token of the reference belongs to the subject, 0 to 1; rows as in a target.
        background: Whether it belongs to the background.
        placement: Where the subject's motion is in the new video; ``None`` is the same place.
        background_weight: Factor on the loss outside the subject; 0 leaves the rest of the video free.
        camera: Maps of (row, column, 1) in shares of the frame, from the background of the first frame to each, as it
            was measured in pixels; it takes the place of all that was read outside the subject.
    """

    subject: Float[Tensor, "jobs frames tokens"]
    background: Float[Tensor, "jobs frames tokens"]
    placement: Placement | None = None
    background_weight: float = 1.0
    camera: Float[Tensor, "jobs frames 3 3"] | None = None

    def placed_subject(self, grid: Grid) -> Float[Tensor, "jobs frames tokens"]:
        """Return how much of each token of the new video belongs to the subject."""
        if self.placement is None:
            return self.subject
        return placed(self.subject[..., None], self.placement, grid)[..., 0]

    def region(self, grid: Grid) -> Float[Tensor, "jobs frames tokens"]:
        """Return the factor on the loss at each token of the new video."""
        subject = self.placed_subject(grid)
        return subject + self.background_weight * (1 - subject)


def placed(
    values: Float[Tensor, "jobs frames tokens channels"], placement: Placement, grid: Grid
) -> Float[Tensor, "jobs frames tokens channels"]:
    """Return values of each frame's tokens at the places of the new video; see :meth:`Placement.sample`."""
    flat = rearrange(values, "jobs frames tokens c -> (jobs frames) tokens c")
    return rearrange(placement.sample(flat, grid), "(jobs frames) tokens c -> jobs frames tokens c", jobs=len(values))


def path_flow(
    path: Float[Tensor, "jobs frames 3 3"], first: Int[Tensor, "pairs"], second: Int[Tensor, "pairs"], grid: Grid
) -> Float[Tensor, "jobs pairs tokens 2"]:
    """Return the flow in token cells between pairs of frames, given the map from the first frame to each.

    Args:
        path: Maps of (row, column, 1) in shares of the frame.
        first: Earlier frame of each pair.
        second: Later frame of each pair.
        grid: Rows and columns of tokens.
    """
    size = torch.tensor(grid, dtype=torch.float32, device=path.device)
    positions = (token_positions(grid, path.device) + 0.5) / size
    maps = path[:, second] @ path[:, first].inverse()
    moved = einsum(maps[..., :2, :2], positions, "j p a b, t b -> j p t a") + maps[..., None, :2, 2]
    return (moved - positions) * size


def camera_flow(
    flow: Float[Tensor, "jobs pairs tokens 2"], background: Float[Tensor, "jobs pairs tokens"], grid: Grid
) -> Float[Tensor, "jobs pairs tokens 2"]:
    """Return the affine flow that most of the background agrees with; none where there is no background.

    A fit of least squares, repeated with less weight on what deviates (Cauchy's weights), since attention near a moving
    subject is drawn to it.

    Args:
        flow: Flow in token cells.
        background: Weight of each token.
        grid: Rows and columns of tokens.
    """
    positions = token_positions(grid, flow.device)
    positions = (positions - positions.mean(0)) / max(grid)
    basis = torch.cat([torch.ones_like(positions[:, :1]), positions], -1)
    ridge = torch.diag(basis.new_tensor([1e-6, 0.1, 0.1]))  # a slope that little background supports stays near 0
    weight, fitted = background, torch.zeros_like(flow)
    for _ in range(NUM_FITS):
        products = einsum(basis, basis, weight, "t a, t b, j p t -> j p a b") + ridge
        slopes = torch.linalg.solve(products, einsum(basis, flow, weight, "t a, j p t x, j p t -> j p a x"))
        fitted = einsum(basis, slopes, "t a, j p a x -> j p t x")
        weight = background / (1 + (flow - fitted).square().sum(-1) / DEVIATION**2)
    return fitted
