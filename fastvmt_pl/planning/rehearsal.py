"""Run each kind of step of a transfer once on tensors without data, and count its cost."""

import gc
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from fastvmt_pl.backbones.condition import Condition
from fastvmt_pl.backbones.untrained import FAKE, untrained
from fastvmt_pl.method.extraction import read_motion
from fastvmt_pl.method.motion_transfer import MotionTransfer
from fastvmt_pl.method.transfer_jobs import TransferJobs
from fastvmt_pl.objectives.motion_target import MotionTarget
from fastvmt_pl.planning.meter import Reading, TensorMeter
from fastvmt_pl.planning.replay import Replay
from fastvmt_pl.planning.workload import Workload


class Rehearsal:
    """A run of the real code, each kind of step once, on fake tensors.

    Args:
        module: The module; only the configs of its backbone are used.
        workload: The shape of the run.

    Attributes:
        embedding: Embedding all prompts, with only the text encoder in memory. In all other steps, the transformer is
            in memory, and the autoencoder unless it is offloaded and not used.
        encoding: Encoding a clip.
        extraction: Extracting a clip's motion at ``extraction_batch`` noise levels.
        gradient: A fresh inner step of a batch (forward, backward and optimiser), with and without gradient
            checkpointing.
        motion: Only the losses, forward and backward from queries and keys; most of it is AMF.
        denoising: A denoising step of a batch.
        ending: The same where the gradient's pass has predicted the velocity under the prompts; ``None`` unless
            guidance is fused.
        finish: A denoising step of the finish; ``None`` without one.
        decoding: Decoding a video.
        condition: What stands for the embedded prompts.
        image: What stands for an image, if the model needs one.
    """

    embedding: Reading
    encoding: Reading
    extraction: Reading
    motion: Reading
    denoising: Reading
    decoding: Reading
    condition: Condition
    image: Condition
    ending: Reading | None = None
    finish: Reading | None = None

    def __init__(self, module: MotionTransfer, workload: Workload) -> None:
        self.module = deepcopy(module, {id(module.backbone): module.backbone})
        self.module.backbone = self.backbone = untrained(module.backbone)
        self.workload = workload
        self.gradient: dict[bool, Reading] = {}
        with TensorMeter() as self.meter, warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*self.trainer.* reference is not registered")  # logging goes nowhere
            self._embed()
            self._replay_autoencoder()
            target = self._extract(self._encode())
            self._guide(target)
            if self.module.guidance == "fused":
                with self._read("ending"):
                    self.module.denoised(self.module.latents.data, 0, self.module.latents.data)
            with self._read("denoising"):
                latents = self.module.denoised(self.module.latents.data, 0)
            if self.module.finish is not None:
                with self._read("finish"):
                    self.module.denoised(self.module.latents.data, self.module.num_guided_steps)
            self.module.predicted = None
            self.module.backbone.load_weights()
            self._replay_autoencoder()
            with self._read("decoding"):
                self.module.decoded(latents[:1])

    @contextmanager
    def _read(self, name: str) -> Iterator[None]:
        with self.meter.reading() as reading:
            yield
        setattr(self, name, reading)

    def _embed(self) -> None:
        backbone, prompts = self.module.backbone, self.workload.prompts
        with self._read("embedding"):
            backbone.embed_prompts(["", *prompts, self.module.negative_prompt])
        self.condition = backbone.embed_prompts(list(prompts))
        negative = backbone.embed_prompts([self.module.negative_prompt])
        backbone.release_text_encoder()
        gc.collect()
        backbone.load_weights()
        self.module.condition, self.module.negative_condition = self.condition, negative.expand(len(prompts))

    def _replay_autoencoder(self) -> None:
        """Run the autoencoder once of many tiles and frames alike."""
        for part in (self.backbone.vae.encoder, self.backbone.vae.decoder):
            if not isinstance(part.forward, Replay):
                Replay(part, self.meter)

    def _encode(self) -> Tensor:
        with self._read("encoding"):
            latents = self.module.backbone.encode(_empty(1, 3, self.workload.num_frames, *self.workload.size))
        reference = latents.expand(len(self.workload.prompts), -1, -1, -1, -1)
        jobs = TransferJobs(self.workload.prompts, tuple(range(len(reference))), reference)
        self.module.latents = nn.Parameter(self.module.initial_latents(jobs))
        self.image = self.module.backbone.family.blank_image(self.workload.latent_shape(self.module))
        images = self.image.expand(len(reference))
        self.module.condition = self.condition.joined(images)
        self.module.negative_condition = self.module.negative_condition.joined(images)
        return latents

    def _extract(self, latents: Tensor) -> MotionTarget:
        features = self.module.features(self.workload.motion)
        count = min(self.workload.num_levels, self.workload.extraction_batch)
        with self._read("extraction"):
            repeated, levels = latents.repeat(count, 1, 1, 1, 1), torch.ones(count)
            target = read_motion(self.module.backbone, repeated, levels, features, image=self.image)
        return target.of_jobs([0])

    def _guide(self, target: MotionTarget) -> None:
        module, transformer = self.module, self.module.backbone.lora_model()
        chosen = transformer.is_gradient_checkpointing
        for checkpointing in (not chosen, chosen):
            if checkpointing:
                transformer.enable_gradient_checkpointing()
            else:
                transformer.disable_gradient_checkpointing()
            with self.meter.reading() as self.gradient[checkpointing]:
                optimizer = module.configure_optimizers()
                module.training_step(target, 0).backward()
                optimizer.step()
            self._clear()
        self._read_losses(target)

    def _read_losses(self, target: MotionTarget) -> None:
        module = self.module
        with torch.no_grad():
            capture = module.backbone.capture(module.latents, 1000.0, module.condition, target.request)
        capture = capture.mapped(lambda tensor: tensor.requires_grad_())
        with self._read("motion"):
            losses: Any = sum(loss.weight * loss(capture, target.following(capture)) for loss in module.losses)
            if losses:
                losses.backward()
        self._clear()

    def _clear(self) -> None:
        self.module.latents.grad, self.module.velocities = None, {}
        for loss in self.module.losses:
            loss.reset()


def _empty(*shape: int) -> Tensor:
    with FAKE:
        return torch.empty(shape)
