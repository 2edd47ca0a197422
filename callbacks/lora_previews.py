"""Previews of a LoRA during training: videos of fixed prompts, and scores of their motion and appearance leak."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from einops import rearrange
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from fastvmt_pl.callbacks.pictures import log_picture, log_video
from fastvmt_pl.callbacks.trainer_parts import datamodule_of
from fastvmt_pl.clips.clip import fit
from fastvmt_pl.clips.image import read_image
from fastvmt_pl.clips.video_writing import enlarge, side_by_side, to_frames, write_video
from fastvmt_pl.distillation.motion_distillation import MotionDistillation
from fastvmt_pl.errors import UserError
from fastvmt_pl.evaluation.appearance import appearance_leak
from fastvmt_pl.method.measuring import motion_of, relative_attention_flow_error
from fastvmt_pl.method.sampling import flow_matching_sigmas, sample
from fastvmt_pl.objectives import AttentionFlow


class Preview(NamedTuple):
    """A preview: its video file, and its scores by name."""

    video: Path
    scores: dict[str, float]


class LoraPreviews(Callback):
    """Samples fixed prompts from fixed noise at the end of an epoch, and scores the videos.

    Writes ``epoch-0004.mp4`` and so on: the clip and a video for each prompt, side by side. TensorBoard gets some of
    the frames, Weights & Biases also the video. Logs ``preview/relative_attention_flow_error`` (see
    :func:`~fastvmt_pl.method.measuring.relative_attention_flow_error`; 1 for a still video) and ``preview/leak``
    (how much closer the colours are to the clip's than without the LoRA, see
    :func:`~fastvmt_pl.evaluation.appearance.appearance_leak`), both averaged over the prompts. Without a clip in the
    data, only the videos are written. For a sharded model, attention cannot be read, so there is no flow error. Every
    process samples, and the first one writes.

    Args:
        prompts: Prompts of the videos; prompts that are not in the training data tell most.
        folder: Output folder; ``None`` is ``previews`` in the folder of the trainer's logs.
        every_n_epochs: Epochs between previews.
        num_steps: Denoising steps.
        guidance_scale: Classifier-free guidance scale.
        low_noise_guidance_scale: Another one for a model's second transformer; ``None`` is the same.
        shift: Shift of the noise schedule towards high noise.
        motion: How motion is read from the backbone.
        fps: Frames per second of the videos.
        seed: Seed of the first video's noise; each further one adds 1.
        image: What the videos begin with, for a model that takes an image: a picture file, or pixels, 0 to 255.

    Raises:
        UserError: If there is no prompt, or a number is below 1.

    Example:
        .. code-block:: yaml

            trainer:
              callbacks:
                - class_path: fastvmt_pl.callbacks.LoraPreviews
                  init_args:
                    prompts: [a panda on a beach, a robot in a kitchen]
    """

    last: Preview | None
    """The last preview."""

    def __init__(
        self,
        prompts: Sequence[str],
        folder: Path | None = None,
        every_n_epochs: int = 1,
        num_steps: int = 50,
        guidance_scale: float = 5.8,
        low_noise_guidance_scale: float | None = None,
        shift: float = 7.0,
        motion: AttentionFlow = AttentionFlow(),
        fps: float = 16.0,
        seed: int = 0,
        image: str | Path | Tensor | None = None,
    ) -> None:
        if not prompts or every_n_epochs < 1 or num_steps < 1:
            raise UserError(
                f"previews have {len(prompts)} prompts every {every_n_epochs} epochs and {num_steps} steps; use at "
                "least 1 of each"
            )
        self.prompts, self.every_n_epochs, self.seed = list(prompts), every_n_epochs, seed
        self.sampling: dict[str, int | float] = {"num_inference_steps": num_steps, "guidance_scale": guidance_scale}
        if low_noise_guidance_scale is not None:
            self.sampling["guidance_scale_2"] = low_noise_guidance_scale
        self.sigmas, self.motion = flow_matching_sigmas(num_steps, shift), motion
        self.shift, self.fps = shift, fps
        self.image = image if image is None or isinstance(image, Tensor) else read_image(image)
        self.folder = None if folder is None else Path(folder)
        self._restart()

    def _restart(self) -> None:
        self.last = None
        self.plain: list[Tensor] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check the block, and embed the prompts before the transformer is loaded."""
        assert isinstance(pl_module, MotionDistillation)
        backbone = pl_module.backbone
        backbone.check_block(self.motion.block)
        backbone.check_images(given=self.image is not None)
        backbone.to(trainer.strategy.root_device)
        backbone.embed_prompts(["", *self.prompts, pl_module.negative_prompt])
        self._restart()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Sample, score, write and log."""
        assert isinstance(pl_module, MotionDistillation)
        if (trainer.current_epoch + 1) % self.every_n_epochs:
            return
        clip, backbone = datamodule_of(trainer).reference, pl_module.backbone
        with pl_module.for_sampling():
            latents = self._sampled(trainer, pl_module)
        shown = [to_frames(backbone.decode(one))[0] for one in latents.split(1)]
        scores: dict[str, float] = {}
        if clip is not None:
            with pl_module.without_adapters():
                if not self.plain:
                    plain = self._sampled(trainer, pl_module)
                    self.plain = [to_frames(backbone.decode(one))[0] for one in plain.split(1)]
                    self.clip_frames = to_frames(backbone.decode(clip.latents[None]))[0]
                if not isinstance(trainer.strategy, ModelParallelStrategy):  # the early exit breaks its collectives
                    found, wanted = (motion_of(backbone, x, self.motion) for x in (latents, clip.latents[None]))
                    scores["relative_attention_flow_error"] = float(relative_attention_flow_error(found, wanted).mean())
            leaks = [appearance_leak(self.clip_frames, made, x) for made, x in zip(shown, self.plain, strict=True)]
            scores["leak"] = sum(leaks) / len(leaks)
            pl_module.log_dict({f"preview/{name}": value for name, value in scores.items()})
            said = ", ".join(f"{name.replace('_', ' ')} {value:.3f}" for name, value in scores.items())
            rank_zero_info(f"after {pl_module.num_batches} batches: {said}")
            shown = [self.clip_frames, *shown]
        folder = self.folder or Path(trainer.log_dir or trainer.default_root_dir) / "previews"
        self.last = Preview(folder / f"epoch-{trainer.current_epoch + 1:04d}.mp4", scores)
        if trainer.is_global_zero:
            row = side_by_side(shown)
            write_video(self.last.video, enlarge(row), self.fps)
            sheet = rearrange(enlarge(row[:: max(1, len(row) // 5)]), "f h w c -> (f h) w c")
            log_picture(trainer, "preview", sheet)
            log_video(trainer, "preview/video", self.last.video)

    def state_dict(self) -> dict[str, Any]:
        """Return the last preview, and the settings that ``fastvmt export`` needs."""
        last = None if self.last is None else (str(self.last.video), self.last.scores)
        settings = {name: getattr(self, name) for name in ("prompts", "sampling", "shift", "fps")}
        return {"last": last, **settings}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        if state_dict["last"] is not None:
            video, scores = state_dict["last"]
            self.last = Preview(Path(video), scores)

    @torch.no_grad()
    def _sampled(self, trainer: Trainer, module: MotionDistillation) -> Tensor:
        seeds = [self.seed + number for number in range(len(self.prompts))]
        adapted = [module.backbone.lora_model(expert) for expert in module.experts]
        was_training = adapted[0].training
        for transformer in adapted:
            transformer.eval()
        shape = datamodule_of(trainer).shape
        images = None
        if self.image is not None:
            _, height, width = module.backbone.video_shape(shape)
            images = fit(self.image[None], (height, width)).expand(len(self.prompts), -1, -1, -1, -1)
        latents = sample(
            module.backbone,
            self.prompts,
            seeds,
            shape,
            self.sigmas,
            self.sampling["guidance_scale"],
            module.negative_prompt,
            images,
            low_noise_guidance_scale=self.sampling.get("guidance_scale_2"),
        )
        for transformer in adapted:
            transformer.train(was_training)
        return latents
