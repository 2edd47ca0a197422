"""The rules of a Wan model for frames, sizes and latents, from its configs alone."""

from pathlib import Path

from fastvmt_pl.backbones.model_folder import read_json, refuse_other_wans
from fastvmt_pl.backbones.request import Latents
from fastvmt_pl.errors import UserError

FRAME_CHUNK = 4
"""``AutoencoderKLWan`` works in chunks of this many frames whatever its config says."""
SIZE_MULTIPLE = 16
"""``WanPipeline`` asks for heights and widths that divide by this."""


class WanGeometry:
    """What shapes a Wan model takes and makes; it knows no weights.

    Attributes:
        name: What the user calls the model.
        num_blocks: Transformer blocks.
        head_dim: Width of an attention head.
        patch_size: Latent frames, rows and columns of a token.
        latent_channels: Channels of the latents.
        temporal_factor: Frames a latent frame, but for the first.
        spatial_factor: Pixels a side of a latent cell.
    """

    name: str

    def read_geometry(self, folder: Path) -> None:
        """Read the configs in a model's folder.

        Raises:
            ValueError: If they are damaged, or those of another kind of model than Wan 2.1 text to video.
        """
        config = read_json(
            folder / "transformer" / "config.json", needed=("num_layers", "patch_size", "attention_head_dim")
        )
        refuse_other_wans(folder, self.name)
        self.num_blocks, self.head_dim = int(config["num_layers"]), int(config["attention_head_dim"])
        self.patch_size: tuple[int, int, int] = tuple(config["patch_size"])
        vae = read_json(folder / "vae" / "config.json")
        self.latent_channels = int(vae.get("z_dim", 16))
        self.temporal_factor = int(vae.get("scale_factor_temporal", 4))
        self.spatial_factor = int(vae.get("scale_factor_spatial", 8))

    def check_geometry(self, num_frames: int, height: int, width: int) -> None:
        """Raise ``ValueError`` unless frames are 4 n + 1 and the size divides by 16 and by the transformer's patch."""
        if num_frames < FRAME_CHUNK + 1 or num_frames % FRAME_CHUNK != 1:
            nearest = max(1, round((num_frames - 1) / FRAME_CHUNK)) * FRAME_CHUNK + 1
            raise UserError(f"num_frames is {num_frames}; {self.name} makes 4 n + 1 frames, for example {nearest}")
        for side, pixels, patch in (("height", height, self.patch_size[1]), ("width", width, self.patch_size[2])):
            step = max(SIZE_MULTIPLE, self.spatial_factor * patch)
            if pixels < step or pixels % step:
                nearest = max(1, round(pixels / step)) * step
                raise UserError(f"{side} is {pixels}; {self.name} needs a multiple of {step}, for example {nearest}")

    def check_block(self, block: int) -> None:
        """Raise ``ValueError`` if the transformer has no such block."""
        if not 0 <= block < self.num_blocks:
            raise UserError(f"block is {block}; {self.name} has blocks 0 to {self.num_blocks - 1}")

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Return channels, frames, height and width of the latents of a video."""
        frames = (num_frames - 1) // self.temporal_factor + 1
        return self.latent_channels, frames, height // self.spatial_factor, width // self.spatial_factor

    def video_shape(self, latent_shape: tuple[int, int, int, int]) -> tuple[int, int, int]:
        """Return frames, height and width of the video that latents stand for."""
        _, frames, height, width = latent_shape
        return (frames - 1) * self.temporal_factor + 1, height * self.spatial_factor, width * self.spatial_factor

    def token_grid(self, latents: Latents) -> tuple[int, int]:
        """Return the rows and columns of tokens in each latent frame."""
        return latents.shape[-2] // self.patch_size[1], latents.shape[-1] // self.patch_size[2]
