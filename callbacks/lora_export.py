"""Write the finished LoRA: the files that diffusers and ComfyUI read, verified, with a model card."""

from pathlib import Path

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info

from fastvmt_pl.callbacks.lora_previews import LoraPreviews
from fastvmt_pl.callbacks.trainer_parts import datamodule_of, find_callback
from fastvmt_pl.distillation.lora_card import Training, export_lora
from fastvmt_pl.distillation.motion_distillation import MotionDistillation
from fastvmt_pl.lora import Adapter


class LoraExport(Callback):
    """Exports the LoRA after training, and checks that each file has the effect of the adapter in memory.

    Writes ``pytorch_lora_weights.safetensors`` (diffusers), ``comfyui_lora.safetensors`` (original names, with alpha),
    ``README.md`` (a model card with code to use it) and, with previews, ``preview.mp4``. For a model with two
    transformers, the first two are pairs, whose names end in ``_high_noise`` and ``_low_noise``. If the check fails,
    training ends with an error, the files remain, and the model card is ``UNVERIFIED.md``.

    Args:
        folder: Output folder; ``None`` is ``lora`` in the folder of the trainer's logs.

    Example:
        .. code-block:: yaml

            trainer:
              callbacks:
                - class_path: fastvmt_pl.callbacks.LoraExport
                  init_args:
                    folder: loras/my-motion
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = None if folder is None else Path(folder)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Gather the weights in all processes, and write them in the first."""
        assert isinstance(pl_module, MotionDistillation)
        with pl_module.for_sampling():
            adapters = pl_module.read_adapters()
        folder = self.folder or Path(trainer.log_dir or trainer.default_root_dir) / "lora"  # needs all processes
        if trainer.is_global_zero:
            self._write(trainer, pl_module, adapters, folder)
        trainer.strategy.barrier()

    @staticmethod
    def _write(trainer: Trainer, module: MotionDistillation, adapters: dict[int, Adapter], folder: Path) -> None:
        previews = find_callback(trainer, LoraPreviews)
        data = datamodule_of(trainer)
        preview = None if previews is None else previews.last
        training = Training(
            source=data.source,
            num_steps=trainer.global_step,
            batch_size=module.batch_size,
            shape=module.backbone.video_shape(data.shape),
            sampling={} if previews is None else previews.sampling,
            shift=module.shift if previews is None else previews.shift,
            fps=None if previews is None else previews.fps,
            clip_hash=data.reference_hash,
            prompts=[] if previews is None else previews.prompts,
            scores={} if preview is None else preview.scores,
            preview=None if preview is None or not preview.video.exists() else preview.video,
        )
        deviations = export_lora(adapters, module, folder, training)
        rank_zero_info(f"the LoRA is in {folder}; its files have its effect, within {max(deviations.values()):.1g}")
