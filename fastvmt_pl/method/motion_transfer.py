"""Motion transfer as a fit loop: an epoch is a guided denoising step, a batch is a step of the optimiser on latents."""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
from lightning import Trainer
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor, nn

from fastvmt_pl.backbones.backbone import Backbone
from fastvmt_pl.backbones.request import Latents, Request
from fastvmt_pl.backbones.step_cache import StepCache
from fastvmt_pl.method.finish import Finish
from fastvmt_pl.method.optimizers import clip_per_job
from fastvmt_pl.method.video_sampler import NonFiniteError, VideoSampler, check
from fastvmt_pl.objectives import MotionFeature, MotionFlowLoss, MotionLoss, MotionTarget, WindowLoss
from fastvmt_pl.objectives.motion_target import joined_request

Guidance = Literal["optimise", "fused"]


class UnfinishedError(RuntimeError):
    """The trainer stopped before all guided steps were taken."""


class MotionTransfer(VideoSampler):
    """Moves the motion of reference clips into videos of prompts (FastVMT, arXiv 2602.05551).

    The first denoising steps are guided: before each of them, an optimiser moves the latents so that the motion flow in
    the backbone's attention follows the reference's. ``Trainer.fit`` runs these steps as epochs, then denoises the rest
    unguided and decodes; :attr:`result` holds what came of it. The datamodule brings the jobs (``datamodule.jobs``, a
    :class:`~fastvmt_pl.method.transfer_jobs.TransferJobs`) and yields each step's
    :class:`~fastvmt_pl.objectives.MotionTarget`.

    With ``fused`` guidance, the optimiser takes one step instead, as long as all of them, and the gradient comes from
    the forward pass that also denoises (as in MotionClone, arXiv 2406.05338). So a guided step costs a plain one and a
    backward pass through the blocks up to the one that is read. One optimiser serves all guided steps, so its momentum
    averages their gradients.

    A checkpoint also holds the optimiser and the inner step, so a killed run continues to the same bits.

    Args:
        backbone: The frozen video model.
        losses: What is minimised, each with its weight.
        optimizer: Makes the optimiser of the latents; a fresh one for every guided step, or with fused guidance one
            for all.
        num_steps: Denoising steps.
        num_guided_steps: How many of them, from the first, are guided; the trainer's ``max_epochs``.
        guidance: ``optimise`` takes inner steps before each guided denoising step; ``fused`` takes one, with the
            gradient of the denoising step's own forward pass.
        num_inner_steps: Optimiser steps before each guided denoising step; with fused guidance, one step is as long as
            all of them.
        final_rate: Learning rate of the last inner step as a share of the first's; it falls linearly between them.
        guidance_scale: Classifier-free guidance scale; 1 turns it off.
        low_noise_guidance_scale: Another one for the model's second transformer, which has the low noise levels;
            ``None`` is the same.
        negative_prompt: What to steer away from; ``None`` is what the model's makers recommend.
        strength: Where to start: 1 is pure noise, less is the reference noised to that level (before the shift).
        shift: Shift of the noise schedule towards high noise.
        baseline: Also denoise the same start without guidance, to compare.
        keep_trajectory: Keep the latents before each denoising step, to learn from.
        finish: Takes the place of the steps that are not guided, with LoRAs of its own; ``None`` for none.
        step_cache: A cache for the steps that are not guided, which leaves blocks out; ``None`` for none. A finish has
            none.

    Raises:
        ValueError: If a setting is out of range, saying which and what is allowed.
    """

    cached_gradients: dict[int, Tensor]
    """Gradients of jobs, by number, that a training step yields as they are; it runs the backbone for the others."""
    velocities: dict[int, Tensor]
    """With fused guidance, what the pass of this step's gradient predicts for each job, by number."""

    def __init__(
        self,
        backbone: Backbone,
        losses: Sequence[MotionLoss] | None = None,
        optimizer: OptimizerCallable = partial(torch.optim.AdamW, lr=0.003),
        num_steps: int = 50,
        num_guided_steps: int = 10,
        guidance: Guidance = "optimise",
        num_inner_steps: int = 10,
        final_rate: float = 2 / 3,
        guidance_scale: float = 5.8,
        low_noise_guidance_scale: float | None = None,
        negative_prompt: str | None = None,
        strength: float = 0.75,
        shift: float = 7.0,
        baseline: bool = True,
        keep_trajectory: bool = False,
        finish: Finish | None = None,
        step_cache: StepCache | None = None,
    ) -> None:
        super().__init__(
            backbone,
            num_steps,
            guidance_scale,
            low_noise_guidance_scale,
            negative_prompt,
            strength,
            shift,
            baseline,
            keep_trajectory,
            finish,
            step_cache,
            num_guided_steps,
        )
        check(num_inner_steps >= 1, f"num_inner_steps is {num_inner_steps}; use at least 1 (the paper's is 10)")
        check(final_rate >= 0, f"final_rate is {final_rate}; use a share of the first rate, 0 or more")
        losses = [MotionFlowLoss(), WindowLoss()] if losses is None else losses
        self.losses: Sequence[MotionLoss] = nn.ModuleList(losses)  # type: ignore[assignment]  # it is one, but untyped
        optimizer([nn.Parameter(torch.zeros(1))])  # refuses settings of its own now, not after minutes
        self.optimizer = optimizer
        self.guidance = guidance
        rates = [1 + step / max(1, num_inner_steps - 1) * (final_rate - 1) for step in range(num_inner_steps)]
        # Of the inner steps, as shares of the optimiser's own.
        self.rates: list[float] = [sum(rates)] if guidance == "fused" else rates

    def restart(self) -> None:
        """Forget what an earlier fit did."""
        super().restart()
        self.inner_step = 0
        self.cached_gradients, self.velocities = {}, {}

    @property
    def num_inner_steps(self) -> int:
        """Steps of the optimiser before each guided denoising step."""
        return len(self.rates)

    def check_trainer(self, trainer: Trainer) -> None:
        """Raise ``ValueError`` if a trainer's settings do not go with an optimisation of latents."""
        check(
            trainer.max_epochs == self.num_guided_steps,
            f"the trainer's max_epochs is {trainer.max_epochs}; set it to num_guided_steps, "
            f"which is {self.num_guided_steps}: an epoch is a guided step",
        )
        check(
            trainer.world_size == 1,
            f"the trainer has {trainer.world_size} processes; set devices to 1: jobs do not share their gradients, so "
            "several devices run a trainer each",
        )
        check(
            trainer.precision == "32-true",
            f"the trainer's precision is {trainer.precision}; leave it at 32-true, which latents need, and set the "
            "backbone's dtype",
        )
        check(
            trainer.accumulate_grad_batches == 1,
            f"accumulate_grad_batches is {trainer.accumulate_grad_batches}; leave it at 1: a batch is an inner step",
        )

    def features(self, motion: MotionFeature) -> list[MotionFeature]:
        """Return what the losses read: the datamodule's feature, and those that losses name themselves."""
        named = (loss.feature for loss in self.losses if loss.feature is not None)
        return list(dict.fromkeys([motion, *named]))

    def check_geometry(self, num_frames: int, size: tuple[int, int], motion: MotionFeature) -> None:
        """Check a video's geometry against the backbone, its blocks and the losses, without any weights.

        Args:
            num_frames: Frames of each video.
            size: Height and width in pixels.
            motion: The datamodule's feature.

        Raises:
            UserError: If the backbone cannot make such videos or has no such block, or if a loss cannot be computed.
        """
        self.backbone.check_geometry(num_frames, *size)
        for block in joined_request(self.features(motion)).blocks:
            self.backbone.check_block(block)
        num_token_frames = self.backbone.num_token_frames(self.backbone.latent_shape(num_frames, *size)[1])
        for loss in self.losses:
            loss.check(num_token_frames, motion)

    def setup(self, stage: str) -> None:
        """Check the trainer, embed the prompts and put the latents at their start."""
        self.check_trainer(self.trainer)
        super().setup(stage)

    @property
    def latents_optimizer(self) -> LightningOptimizer:
        """The optimiser of the latents."""
        optimizer = self.optimizers()
        assert isinstance(optimizer, LightningOptimizer)
        return optimizer

    @property
    def relative_rate(self) -> float:
        """The learning rate of this inner step, as a share of the first one's."""
        return self.rates[self.inner_step] / self.rates[0]

    def training_step(self, target: MotionTarget, batch_index: int) -> Tensor:
        """Return the weighted losses of the latents; for cached gradients, a surrogate that has exactly those."""
        cached = self.cached_gradients
        surrogate = sum(((self.latents[job] * cached[job]).sum() for job in cached), start=0 * self.latents.sum())
        fresh = [job for job in range(len(self.latents)) if job not in cached]
        if not fresh:
            return surrogate
        target = target.of_jobs(fresh)
        latents = self.latents if len(fresh) == len(self.latents) else self.latents[fresh]
        request = target.request | Request(denoising=self.guidance == "fused")
        capture = self.backbone.capture(latents, self.timestep(self.step), self.condition[fresh], request)
        if capture.velocity is not None:
            self.velocities = dict(zip(fresh, capture.velocity.detach(), strict=True))
        target = target.following(capture)
        values = {loss.name: loss(capture, target) for loss in self.losses}
        total = sum((loss.weight * values[loss.name] for loss in self.losses), start=0 * self.latents.sum())
        if not total.isfinite():
            raise NonFiniteError(
                f"the loss is {total.item()} at guided step {self.step + 1}, inner step {self.inner_step + 1}; "
                "lower the learning rate, or use dtype float32 or bfloat16"
            )
        logged = {"loss": total.detach(), **{f"loss/{name}": value.detach() for name, value in values.items()}}
        means = {name: value / len(fresh) for name, value in logged.items()}
        self.log_dict(means, prog_bar=True, batch_size=len(fresh))
        return total + surrogate

    def on_train_batch_start(self, batch: MotionTarget, batch_index: int) -> None:
        """Set the learning rate of this inner step."""
        for group in self.latents_optimizer.param_groups:
            group["lr"] = group["initial_lr"] * self.rates[self.inner_step]

    def on_after_backward(self) -> None:
        """Check a fresh gradient: it may overflow in low precision though the loss does not, and clipping hides it.

        Raises:
            NonFiniteError: If it is infinite or not a number.
        """
        assert self.latents.grad is not None
        if len(self.cached_gradients) < len(self.latents) and not self.latents.grad.isfinite().all():
            raise NonFiniteError(
                f"the gradient is not finite at guided step {self.step + 1}, inner step {self.inner_step + 1}; use "
                "dtype float32 or bfloat16"
            )

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Take an inner step, and count it at once, so that any checkpoint has latents and position in step.

        Given latents have no gradient, and stay as they are whatever the optimiser does, such as decay.
        """
        super().optimizer_step(*args, **kwargs)
        self.latents.data = self.condition.fixed(self.latents.data)
        self.inner_step += 1
        for loss in self.losses:  # a metric keeps its last value, and with it the graph of the whole step
            loss.reset()

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip each job's gradient by itself."""
        if gradient_clip_algorithm == "value":
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        elif gradient_clip_val:
            assert self.latents.grad is not None
            self.latents.grad.copy_(clip_per_job(self.latents.grad, gradient_clip_val))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Make the optimiser of the latents."""
        optimizer = self.optimizer([self.latents])
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
        return optimizer

    def advance(self) -> None:
        """Take the scheduler's step once all inner steps are done; otherwise, and if called again, do nothing."""
        if self.step >= self.num_guided_steps or self.inner_step < self.num_inner_steps:
            return
        self.take_step(self._conditional() if self.guidance == "fused" else None)
        self.inner_step = 0
        self.cached_gradients, self.velocities = {}, {}
        if self.guidance == "optimise":
            self.latents_optimizer.state.clear()

    @torch.no_grad()
    def _conditional(self) -> Latents:
        """Return the velocity under each prompt: of the gradient's pass, or for jobs that had none, of a new one."""
        latents, known = self.latents.to(self.backbone.device), self.velocities
        missing = [job for job in range(len(latents)) if job not in known]
        if missing:
            found = self.backbone.velocity(latents[missing], self.timestep(self.step), self.condition[missing])
            known = known | dict(zip(missing, found, strict=True))
        return torch.stack([known[job].to(latents.device) for job in range(len(latents))])

    def on_train_start(self) -> None:
        """Make up for the end of an epoch that a resumed run skips."""
        self.advance()

    def on_train_epoch_end(self) -> None:
        """End a guided step."""
        self.advance()

    def on_fit_end(self) -> None:
        """Denoise the rest unguided and decode; a resumed run passes here whatever it had done."""
        self.advance()
        if self.step < self.num_guided_steps:
            raise UnfinishedError(
                f"the trainer stopped at guided step {self.step + 1} of {self.num_guided_steps}, so nothing was "
                "decoded; resume from its checkpoint, without max_time, max_steps or limit_train_batches"
            )
        self.denoise_rest()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the inner step, and the velocities that its denoising step will use."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["motion_transfer"] |= {"inner_step": self.inner_step, "velocities": self.velocities}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the inner step and the velocities."""
        super().on_load_checkpoint(checkpoint)
        state = checkpoint["motion_transfer"]
        self.inner_step, self.velocities = state["inner_step"], state.get("velocities", {})
