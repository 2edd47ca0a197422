"""The rules of a model for frames, sizes and latents."""

from dataclasses import dataclass

from fastvmt_pl.backbones.request import Latents
from fastvmt_pl.errors import UserError


@dataclass(frozen=True)
class Geometry:
    """What shapes a model takes and makes.

    Attributes:
        num_blocks: Transformer blocks.
        head_dim: Width of an attention head.
        patch_size: Latent frames, rows and columns of a token.
        latent_channels: Channels of the latents.
        temporal_factor: Frames a latent frame, except the first.
        spatial_factor: Pixels a side of a latent cell.
        frame_step: Videos have n times this number of frames, and one.
        size_multiple: Heights and widths in pixels divide by this.
        num_padding_frames: Latent frames in front of those of the video, which fill up the first token.
        max_size: Largest height and width in pixels; ``None`` is no limit.
    """

    num_blocks: int
    head_dim: int
    patch_size: tuple[int, int, int]
    latent_channels: int
    temporal_factor: int
    spatial_factor: int
    frame_step: int
    size_multiple: int
    num_padding_frames: int = 0
    max_size: tuple[int, int] | None = None

    @property
    def size_steps(self) -> tuple[int, int]:
        """What heights and widths in pixels have to divide by."""
        _, rows, columns = (max(self.size_multiple, self.spatial_factor * cells) for cells in self.patch_size)
        return rows, columns


class WithGeometry:
    """A model with a geometry; it knows no weights.

    Attributes:
        name: What the user calls the model.
        geometry: Its rules.
        num_blocks: Transformer blocks.
    """

    name: str
    geometry: Geometry
    num_blocks: int

    def check_geometry(self, num_frames: int, height: int, width: int) -> None:
        """Raise ``ValueError`` unless the model makes so many frames of this size in pixels."""
        frame_step = self.geometry.frame_step
        if num_frames < frame_step + 1 or num_frames % frame_step != 1:
            nearest = max(1, round((num_frames - 1) / frame_step)) * frame_step + 1
            raise UserError(
                f"num_frames is {num_frames}; {self.name} makes {frame_step} n + 1 frames, for example {nearest}"
            )
        sizes = {"height": height, "width": width}
        for (side, pixels), step in zip(sizes.items(), self.geometry.size_steps, strict=True):
            if pixels < step or pixels % step:
                nearest = max(1, round(pixels / step)) * step
                raise UserError(f"{side} is {pixels}; {self.name} needs a multiple of {step}, for example {nearest}")
        largest = self.geometry.max_size
        if largest is not None and (height > largest[0] or width > largest[1]):
            raise UserError(f"size is {height} x {width}; {self.name} makes at most {largest[0]} x {largest[1]}")

    def geometry_within(self, num_frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Return frames, height and width of the largest video that the model makes within these."""
        frame_step, (rows, columns) = self.geometry.frame_step, self.geometry.size_steps
        frames = (num_frames - 1) // frame_step * frame_step + 1
        return frames, height // rows * rows, width // columns * columns

    def check_block(self, block: int) -> None:
        """Raise ``ValueError`` if the transformer has no such block."""
        if not 0 <= block < self.num_blocks:
            raise UserError(f"block is {block}; {self.name} has blocks 0 to {self.num_blocks - 1}")

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Return channels, frames, height and width of the latents of a video."""
        rules = self.geometry
        frames = (num_frames - 1) // rules.temporal_factor + 1 + rules.num_padding_frames
        return rules.latent_channels, frames, height // rules.spatial_factor, width // rules.spatial_factor

    def video_shape(self, latent_shape: tuple[int, int, int, int]) -> tuple[int, int, int]:
        """Return frames, height and width of the video that latents stand for."""
        _, frames, height, width = latent_shape
        rules = self.geometry
        num_frames = (frames - rules.num_padding_frames - 1) * rules.temporal_factor + 1
        return num_frames, height * rules.spatial_factor, width * rules.spatial_factor

    def num_token_frames(self, num_latent_frames: int) -> int:
        """Return the frames of tokens that latent frames make."""
        return num_latent_frames // self.geometry.patch_size[0]

    def token_grid(self, latents: Latents) -> tuple[int, int]:
        """Return the rows and columns of tokens in each frame."""
        return latents.shape[-2] // self.geometry.patch_size[1], latents.shape[-1] // self.geometry.patch_size[2]
