"""The shape of a run that is planned, and how often it takes each step."""

from dataclasses import dataclass

from fastvmt_pl.method.motion_transfer import MotionTransfer
from fastvmt_pl.objectives import AttentionFlow


@dataclass(frozen=True)
class Workload:
    """Transfers of equal geometry, in batches.

    Attributes:
        num_frames: Frames of each video.
        size: Its height and width in pixels.
        motion: How motion is read.
        prompts: Prompts of one batch, as many as it has jobs.
        num_batches: Batches, one after the other.
        num_clips: Clips that are encoded and whose motion is read, in the whole run.
        num_levels: Noise levels at which it is read.
        extraction_batch: How many of them at a time.
        num_gradients: Gradients computed in the whole of a batch; the other inner steps reuse one.
    """

    num_frames: int
    size: tuple[int, int]
    motion: AttentionFlow
    prompts: tuple[str, ...]
    num_batches: int
    num_clips: int
    num_levels: int
    extraction_batch: int
    num_gradients: int

    def check(self, module: MotionTransfer) -> None:
        """Raise ``UserError`` if the module or its backbone cannot do this, as the datamodule would."""
        module.check_geometry(self.num_frames, self.size, self.motion)

    def latent_shape(self, module: MotionTransfer) -> tuple[int, int, int, int]:
        """Return channels, frames, height and width of the latents of one video."""
        return module.backbone.latent_shape(self.num_frames, *self.size)
