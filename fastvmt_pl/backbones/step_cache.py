"""Caches of denoising steps: a transformer's blocks are left out where their result would hardly change."""

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers import FirstBlockCacheConfig, MagCacheConfig, ModelMixin, SeaCacheConfig
from diffusers.hooks.mag_cache import nearest_interp
from jaxtyping import Float
from torch import Tensor, nn

from fastvmt_pl.backbones.families.family import Family
from fastvmt_pl.errors import UserError

StepCacheMethod = Literal["first_block", "mag", "sea"]


@dataclass(frozen=True)
class StepCache:
    """Which of diffusers' caches to use, and how far it goes.

    Args:
        method: ``first_block`` runs the first block, and the others only where its residual has changed; ``mag`` leaves
            blocks out by known ratios of residuals from step to step (MagCache, arXiv 2506.09045); ``sea`` compares the
            filtered latents (SeaCache, arXiv 2602.18993).
        threshold: The change up to which blocks are left out; more is faster and less exact. ``None`` is diffusers'
            own: 0.05, 0.06 and 0.25.
        mag_ratios: For ``mag``: the ratio at each step of a whole sampling with this model and schedule, the first
            being 1, as ``MagCacheConfig(calibrate=True)`` prints them; taken at the nearest step where a sampling has
            more or fewer.

    Raises:
        UserError: If ratios are missing or superfluous, or the threshold is not positive.
    """

    method: StepCacheMethod
    threshold: float | None = None
    mag_ratios: list[float] | None = None

    def __post_init__(self) -> None:
        """Check what needs no model to be checked."""
        if self.threshold is not None and not self.threshold > 0:
            raise UserError(f"the step cache has threshold {self.threshold}; use a positive number, or no step cache")
        if (self.method == "mag") != bool(self.mag_ratios):
            raise UserError(
                "the step cache mag needs mag_ratios, a model's own; see docs/cost.md"
                if self.method == "mag"
                else f"the step cache {self.method} takes no mag_ratios; leave them out"
            )

    def config(self, steps: Sequence[int], num_steps: int) -> FirstBlockCacheConfig | MagCacheConfig | SeaCacheConfig:
        """Return diffusers' config of it.

        Args:
            steps: The numbers of the steps that one transformer takes with it.
            num_steps: Steps of the whole sampling.
        """
        given = {} if self.threshold is None else {"threshold": self.threshold}
        if self.method == "first_block":
            return FirstBlockCacheConfig(**given)
        if self.method == "sea":
            return SeaCacheConfig(**given)
        ratios = nearest_interp(torch.tensor(self.mag_ratios), num_steps)[list(steps)]
        return MagCacheConfig(num_inference_steps=len(steps), mag_ratios=ratios, retention_ratio=0.0, **given)


class CachedSteps:
    """The steps of one sampling from some step on, which are taken with a cache.

    Each video has a state of its own, so that its result does not depend on the others of its batch. A state begins
    empty: it is no part of a checkpoint.

    Args:
        cache: The cache.
        sigmas: Noise levels of the whole sampling, the final zero included.
        first: The first step with the cache.
        family: The family of the model.

    Attributes:
        steps: The steps that each of the transformers takes, by its number.
        num_passes: Passes of a transformer so far, of a video each.
        num_whole: How many of them ran all blocks.
    """

    def __init__(self, cache: StepCache, sigmas: Float[Tensor, "steps_and_end"], first: int, family: Family) -> None:
        self.cache, self.family = cache, family
        self.timesteps = [1000 * sigma for sigma in sigmas[:-1].tolist()]
        experts = {step: family.expert_at(self.timesteps[step]) for step in range(first, len(self.timesteps))}
        self.steps = {each: [step for step in experts if experts[step] == each] for each in set(experts.values())}
        self.num_passes = self.num_whole = 0
        self.rest = ExitStack()

    def run(
        self, transformer: ModelMixin, expert: int, timestep: float, trajectory: str
    ) -> AbstractContextManager[None]:
        """Return the context of one pass of a transformer.

        Args:
            transformer: The transformer.
            expert: Its number.
            timestep: Noise level times 1000, of one of the steps.
            trajectory: Name of the passes that the cache may compare: of one video, under one of its prompts.
        """
        steps = self.steps[expert]
        if not transformer.is_cache_enabled:
            transformer.enable_cache(self.cache.config(steps, len(self.timesteps)))
            self.rest.callback(transformer.disable_cache)
            last = self.family.attention(self.family.blocks(transformer)[-1])
            self.rest.callback(last.register_forward_pre_hook(self._count_whole).remove)
        self.num_passes += 1
        context: AbstractContextManager[None] = transformer.cache_context(
            trajectory,
            step_index=steps.index(self.timesteps.index(timestep)),
            num_inference_steps=len(steps),
            sigma=timestep / 1000,
        )
        return context

    def _count_whole(self, module: nn.Module, args: Any) -> None:
        self.num_whole += 1

    def close(self) -> None:
        """Take the cache off the transformers, which are as they were before."""
        self.rest.close()
