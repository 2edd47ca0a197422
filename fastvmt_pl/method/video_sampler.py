"""Sample videos from the starts of jobs, unguided by any motion: what a transfer does after its guided steps."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import UInt8
from lightning import LightningModule
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from fastvmt_pl.backbones.backbone import Backbone
from fastvmt_pl.backbones.condition import Condition
from fastvmt_pl.backbones.request import Latents
from fastvmt_pl.backbones.step_cache import StepCache
from fastvmt_pl.clips.video_writing import to_frames
from fastvmt_pl.errors import UserError
from fastvmt_pl.method.finish import Finish
from fastvmt_pl.method.sampling import add_noise, denoise, flow_matching_sigmas, guided_velocity, job_noise
from fastvmt_pl.method.transfer_jobs import TransferJobs, TransferResult

CHECKPOINT_SECONDS = 60.0
"""Wall time from one checkpoint to the next in the unguided steps; a run that is killed loses no more."""


class NonFiniteError(RuntimeError):
    """The loss, its gradient or the latents are infinite or not a number."""


class VideoSampler(LightningModule):
    """Denoises the jobs of the trainer's datamodule from their starts to their videos, and if wanted a baseline.

    A checkpoint holds latents, position and random state, and never the backbone. Position is the module's own state,
    so a run that was killed anywhere continues to the same latents. The trainer's last checkpoint is written again
    every :data:`CHECKPOINT_SECONDS`, and after each video's last step.

    Args:
        backbone: The frozen video model.
        num_steps: Denoising steps.
        guidance_scale: Classifier-free guidance scale; 1 turns it off.
        low_noise_guidance_scale: Another one for the model's second transformer, which has the low noise levels;
            ``None`` is the same.
        negative_prompt: What to steer away from; ``None`` is what the model's makers recommend.
        strength: Where to start: 1 is pure noise, less is the reference noised to that level (before the shift).
        shift: Shift of the noise schedule towards high noise.
        baseline: Also denoise the same start without motion guidance, to compare.
        keep_trajectory: Keep the latents before each denoising step, to learn from.
        finish: Takes the place of the last steps; ``None`` for none.
        step_cache: A cache for the last steps, unless there is a finish; ``None`` for none. What a run is resumed from
            is before them.
        num_guided_steps: How many steps come before finish and cache.

    Raises:
        UserError: If a setting is out of range or a LoRA of the finish cannot be used, saying what is allowed.
    """

    result: TransferResult | None
    """What the last fit made."""
    cached_passes: tuple[int, int] | None
    """Passes of the jobs' steps with a cache: those that ran all blocks, and all; ``None`` without a cache."""
    predicted: Latents | None
    """The clean latents that the last denoising step predicted, of whichever video; ``None`` after a restart."""
    on_denoised: list[Callable[[], None]]
    """Called after each unguided denoising step; a fit begins with none."""
    latents: nn.Parameter
    condition: Condition
    negative_condition: Condition

    def __init__(
        self,
        backbone: Backbone,
        num_steps: int,
        guidance_scale: float,
        low_noise_guidance_scale: float | None,
        negative_prompt: str | None,
        strength: float,
        shift: float,
        baseline: bool,
        keep_trajectory: bool,
        finish: Finish | None,
        step_cache: StepCache | None,
        num_guided_steps: int,
    ) -> None:
        super().__init__()
        check(num_steps >= 1, f"num_steps is {num_steps}; use at least 1 (the paper's is 50)")
        check(0 < strength <= 1, f"strength is {strength}; use above 0 (the reference itself) to 1 (pure noise)")
        check(guidance_scale >= 1, f"guidance_scale is {guidance_scale}; use 1 (off) or more")
        check(
            low_noise_guidance_scale is None or low_noise_guidance_scale >= 1,
            f"low_noise_guidance_scale is {low_noise_guidance_scale}; use 1 (off) or more, or null",
        )
        check(
            low_noise_guidance_scale is None or len(backbone.family.experts) > 1,
            f"low_noise_guidance_scale is {low_noise_guidance_scale}, and {backbone.name} has one transformer for all "
            "noise levels; leave it out",
        )
        check(shift > 0, f"shift is {shift}; use a positive number (the paper's is 7)")
        self.backbone = backbone
        self.num_steps, self.guidance_scale, self.strength = num_steps, guidance_scale, strength
        self.low_noise_guidance_scale = low_noise_guidance_scale
        usual = backbone.family.defaults.negative_prompt
        self.negative_prompt = usual if negative_prompt is None else negative_prompt
        self.baseline, self.keep_trajectory = baseline, keep_trajectory
        self.sigmas = flow_matching_sigmas(num_steps, shift, strength)
        check(
            0 <= num_guided_steps <= num_steps,
            f"num_guided_steps is {num_guided_steps}; use 0 to num_steps, that is {num_steps} (the paper's is a fifth)",
        )
        self.finish, self.step_cache, self.num_guided_steps = finish, step_cache, num_guided_steps
        if finish is not None:
            check(
                num_guided_steps < num_steps,
                f"num_guided_steps is {num_guided_steps}, so none of {num_steps} steps is left for a finish; use fewer",
            )
            backbone.check_loras(finish.loras)
            last = finish.sigmas(float(self.sigmas[num_guided_steps]), shift)
            self.sigmas = torch.cat([self.sigmas[:num_guided_steps], last])
            self.num_steps = len(self.sigmas) - 1
        if step_cache is not None:
            backbone.check_step_cache(step_cache)
        self.restart()

    def restart(self) -> None:
        """Forget what an earlier fit did."""
        self.step = 0
        self.on_denoised = []
        self.result = None
        self.predicted = None
        self.baseline_latents: Tensor | None = None
        self.baseline_step = 0
        self.trajectory: list[Latents] = []
        self.cached_passes: tuple[int, int] | None = None
        self.before_cache: dict[str, Any] | None = None

    @property
    def jobs(self) -> TransferJobs:
        """What the trainer's datamodule says is to be done."""
        jobs: TransferJobs = self.trainer.datamodule.jobs  # type: ignore[attr-defined]
        return jobs

    def setup(self, stage: str) -> None:
        """Embed the prompts and put the latents at their start; a checkpoint is loaded after this."""
        self.restart()
        jobs = self.jobs
        self.condition = self.backbone.embed_prompts(list(jobs.prompts))
        self.negative_condition = self.backbone.embed_prompts([self.negative_prompt]).expand(len(jobs.prompts))
        self.backbone.release_text_encoder()
        if jobs.images is not None:
            shape: Any = tuple(jobs.reference.shape[1:])
            images = self.backbone.embed_images(jobs.images, self.backbone.video_shape(shape)[0])
            self.condition = self.condition.joined(images)
            self.negative_condition = self.negative_condition.joined(images)
        self.latents = nn.Parameter(self.initial_latents(jobs))
        self._keep_latents()

    def initial_latents(self, jobs: TransferJobs) -> Latents:
        """Return the references, noised to the first noise level with each job's own noise, in fp32.

        Latents that an image gives are there from the start.
        """
        reference = jobs.reference.float()
        noise = job_noise(tuple(reference.shape[1:]), list(jobs.seeds)).to(reference.device)
        return self.condition.fixed(add_noise(reference, noise, float(self.sigmas[0])))

    def timestep(self, step: int) -> float:
        """Return the noise level before a denoising step, times 1000."""
        return 1000 * float(self.sigmas[step])

    @torch.no_grad()
    def denoised(self, latents: Latents, step: int, conditional: Latents | None = None) -> Latents:
        """Take one denoising step with classifier-free guidance.

        Args:
            latents: Noisy latents before the step.
            step: Its number, from 0.
            conditional: The velocity under the prompts, if it is known already.
        """
        latents, timestep = latents.to(self.backbone.device), self.timestep(step)
        finish = self.finish if step >= self.num_guided_steps else None
        with self.backbone.adapted({} if finish is None else finish.loras):
            velocity = guided_velocity(
                self.backbone,
                latents,
                timestep,
                self.condition,
                self.negative_condition,
                self.guidance_scale if finish is None else finish.guidance_scale,
                self.low_noise_guidance_scale if finish is None else None,
                conditional,
            )
        denoised = denoise(velocity, latents, self.sigmas, step)
        self.predicted = latents - self.sigmas[step] * velocity
        if not denoised.isfinite().all():
            raise NonFiniteError(
                f"the latents are not finite after denoising step {step + 1}; lower the learning rate, or use dtype "
                "float32 or bfloat16"
            )
        return denoised

    @torch.no_grad()
    def take_step(self, conditional: Latents | None = None) -> None:
        """Take a denoising step of the jobs; with the velocity under their prompts, if it is known already."""
        self.latents.data = self.denoised(self.latents.data, self.step, conditional)
        self._keep_latents()
        self.step += 1

    @torch.no_grad()
    def denoise_rest(self) -> None:
        """Denoise the rest and the baseline, and decode; a resumed run goes on where it was."""
        self.saved_at = time.monotonic()
        if self.step < self.num_steps:
            with self._cached():
                while self.step < self.num_steps:
                    self.take_step()
                    self._end_unguided_step()
            self.save_last_checkpoint()
        if self.baseline and self.baseline_step < self.num_steps:
            if self.baseline_latents is None:
                self.baseline_latents = self.initial_latents(self.jobs)
            self._denoise_baseline(until=self.num_guided_steps)
            with self._cached():
                self._denoise_baseline(until=self.num_steps)
            self.save_last_checkpoint()
        self.result = TransferResult(
            latents=self.latents.detach().cpu(),
            frames=self.decoded(self.latents),
            baseline=None if self.baseline_latents is None else self.decoded(self.baseline_latents),
            trajectory=torch.stack(self.trajectory, 1) if self.trajectory else None,
        )

    def decoded(self, latents: Latents) -> UInt8[Tensor, "jobs frames height width 3"]:
        """Decode job by job: the autoencoder takes more memory for a video than anything before it."""
        return torch.cat([to_frames(self.backbone.decode(job)) for job in latents.split(1)])

    def _keep_latents(self) -> None:
        if self.keep_trajectory:
            self.trajectory.append(self.latents.detach().cpu().clone())

    def _denoise_baseline(self, until: int) -> None:
        assert self.baseline_latents is not None
        while self.baseline_step < until:
            self.baseline_latents = self.denoised(self.baseline_latents, self.baseline_step)
            self.baseline_step += 1
            self._end_unguided_step()

    @contextmanager
    def _cached(self) -> Iterator[None]:
        """Have the step cache on, if there is one; a checkpoint within the block is of its begin, without a cache."""
        if self.step_cache is None or self.finish is not None:  # its few steps differ
            yield
            return
        self.before_cache = self._state()
        with self.backbone.cached(self.step_cache, self.sigmas, self.num_guided_steps) as steps:
            yield
        self.before_cache = None
        self.cached_passes = self.cached_passes or (steps.num_whole, steps.num_passes)

    def _end_unguided_step(self) -> None:
        """Write a checkpoint if one is due, and report the step."""
        video_is_done = self.step == self.num_steps and self.baseline_step in (0, self.num_steps)  # it is saved then
        is_due = time.monotonic() - self.saved_at >= CHECKPOINT_SECONDS
        if is_due and not video_is_done and self.before_cache is None:
            self.save_last_checkpoint()
        for told in self.on_denoised:
            told()

    def save_last_checkpoint(self) -> None:
        """Write the last checkpoint again, where the trainer writes one."""
        callback = self.trainer.checkpoint_callback
        if isinstance(callback, ModelCheckpoint) and callback.last_model_path:
            self.trainer.save_checkpoint(callback.last_model_path, weights_only=False)
        self.saved_at = time.monotonic()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add position, baseline, trajectory and random state."""
        state = dict(self.before_cache or self._state())
        checkpoint["state_dict"]["latents"] = state.pop("latents")
        checkpoint["motion_transfer"] = state

    def _state(self) -> dict[str, Any]:
        return {
            "latents": self.latents.detach(),
            "step": self.step,
            "baseline_latents": self.baseline_latents,
            "baseline_step": self.baseline_step,
            "trajectory": list(self.trajectory),
            "cached_passes": self.cached_passes,
            "random_state": torch.get_rng_state(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore position, baseline, trajectory and random state."""
        state = checkpoint["motion_transfer"]
        self.step, self.trajectory = state["step"], state["trajectory"]
        self.baseline_latents, self.baseline_step = state["baseline_latents"], state["baseline_step"]
        self.cached_passes = state.get("cached_passes")
        torch.set_rng_state(state["random_state"])


def check(holds: bool, otherwise: str) -> None:
    """Raise ``UserError`` with a message unless a condition holds."""
    if not holds:
        raise UserError(otherwise)
