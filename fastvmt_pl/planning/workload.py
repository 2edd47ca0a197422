"""What is to be planned: the shape of a run, and how often it does what."""

from dataclasses import dataclass

from fastvmt_pl.method.motion_transfer import MotionTransfer
from fastvmt_pl.objectives.motion_target import MotionSettings


@dataclass(frozen=True)
class Workload:
    """Transfers of equal geometry, some of them side by side in a batch.

    Attributes:
        num_frames: Frames of each video.
        size: Its height and width in pixels.
        motion: How motion is read.
        prompts: Prompts of one batch, as many as it has jobs.
        num_batches: Batches that follow each other.
        num_clips: Clips that are encoded and whose motion is read, in the whole run.
        num_levels: Noise levels at which it is read.
        extraction_batch: How many of them at a time.
        num_gradients: Gradients computed in the whole of a batch; the other inner steps reuse one.
    """

    num_frames: int
    size: tuple[int, int]
    motion: MotionSettings
    prompts: tuple[str, ...]
    num_batches: int
    num_clips: int
    num_levels: int
    extraction_batch: int
    num_gradients: int

    def check(self, module: MotionTransfer) -> None:
        """Raise ``ValueError`` if the module or its backbone cannot do this, as the datamodule would."""
        module.backbone.check_geometry(self.num_frames, *self.size)
        module.backbone.check_block(self.motion.block)
        module.check_target(module.backbone.num_token_frames(self.latent_shape(module)[1]), self.motion)

    def latent_shape(self, module: MotionTransfer) -> tuple[int, int, int, int]:
        """Return channels, frames, height and width of the latents of one video."""
        return module.backbone.latent_shape(self.num_frames, *self.size)
