"""A video diffusion transformer of any family that is known, through diffusers' own classes."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import ModelMixin
from jaxtyping import Float
from torch import Tensor

from fastvmt_pl.backbones.backbone import Backbone
from fastvmt_pl.backbones.capture import capturing
from fastvmt_pl.backbones.condition import Condition
from fastvmt_pl.backbones.geometry import WithGeometry
from fastvmt_pl.backbones.offload import at_work
from fastvmt_pl.backbones.pretrained import PretrainedParts
from fastvmt_pl.backbones.request import Capture, Latents, Request
from fastvmt_pl.backbones.step_cache import CachedSteps, StepCache
from fastvmt_pl.clips.clip import Video
from fastvmt_pl.errors import UserError


class DiffusersBackbone(PretrainedParts, WithGeometry, Backbone):
    """A video model through diffusers' own classes; :class:`.pretrained.PretrainedParts` says what can be set."""

    cached_steps: CachedSteps | None = None

    def to(self, device: torch.device | str) -> Backbone:
        """Compute on a device from now on.

        Raises:
            ValueError: If the attention backend does not work there.
        """
        self.move_to(torch.device(device))
        return self

    @torch.no_grad()
    def encode(self, video: Video) -> Latents:
        """Encode a video to the mode of its latents, normalised."""
        with at_work(self.vae, self.device, self.idle_device):
            latents: Tensor = self.vae.encode(video.to(self.device)).latent_dist.mode()
        return self.family.normalise(self.vae, latents)

    @torch.no_grad()
    def decode(self, latents: Latents) -> Video:
        """Decode normalised latents."""
        with at_work(self.vae, self.device, self.idle_device):
            scaled = self.family.denormalise(self.vae, latents.to(self.device))
            video: Tensor = self.vae.decode(scaled).sample
        return video

    @torch.no_grad()
    def embed_prompts(self, prompts: list[str]) -> Condition:
        """Embed prompts as the stock pipeline does.

        Embeddings are kept, so that a prompt that was embedded before does not need the text encoder again.
        """
        kept = self.embedded
        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in kept]
        if missing:
            with at_work(self.text_pipeline.text_encoder, self.device, self.idle_device):
                for prompt in missing:
                    embedded = self._embed(prompt)
                    self._row = embedded.to("meta")
                    # Kept short and on the CPU: those of a long list of jobs would fill a GPU.
                    kept[prompt] = embedded.to("cpu").compact()
        return Condition.stack([kept[prompt] for prompt in prompts], self._row).to(self.device)

    @torch.no_grad()
    def embed_images(self, images: Video, num_frames: int) -> Condition:
        """Embed images one after another; one that serves several videos is embedded once."""
        first = [
            next(i for i in range(n + 1) if i == n or torch.equal(images[i], images[n])) for n in range(len(images))
        ]
        distinct = sorted(set(first))
        encoded = [self.family.embed_image(self.encode, images[i : i + 1], num_frames) for i in distinct]
        found = Condition.cat(encoded).to(self.device)
        if self.family.image_encoder is not None:
            found = found.joined(self._see([images[i : i + 1] for i in distinct]))
        return found[[distinct.index(i) for i in first]]

    def _see(self, images: list[Video]) -> Condition:
        """Return what the image encoder says of images."""
        pipeline = self.image_pipeline()
        return Condition.cat([self.family.see_image(pipeline, image) for image in images])

    def _embed(self, prompt: str) -> Condition:
        return self.family.embed(self.text_pipeline, prompt)

    def check_step_cache(self, cache: StepCache) -> None:
        """Raise ``UserError`` if diffusers has no such cache for the model, or its blocks are compiled."""
        super().check_step_cache(cache)
        if self.compile:
            raise UserError(
                "a step cache cannot be used with compile, since every block would be compiled separately; turn one off"
            )

    @contextmanager
    def cached(self, cache: StepCache, sigmas: Float[Tensor, "steps_and_end"], first: int) -> Iterator[CachedSteps]:
        """Predict velocities with a cache within the block, those of a batch one after another."""
        self.cached_steps = CachedSteps(cache, sigmas, first, self.family)
        try:
            yield self.cached_steps
        finally:
            self.cached_steps.close()
            self.cached_steps = None

    def velocity(
        self, latents: Latents, timestep: float | Tensor, condition: Condition, trajectory: str = "cond"
    ) -> Latents:
        """Predict the flow-matching velocity, in fp32."""
        if self.cached_steps is not None:
            return self._cached_velocity(self.cached_steps, latents, float(timestep), condition, trajectory)
        latents, times = self._placed(latents, timestep)
        turns = self._turns(timestep, len(latents))
        found = [
            self._velocity(expert, latents[jobs], times[jobs], condition[jobs])
            if len(turns) > 1
            else self._velocity(expert, latents, times, condition)
            for expert, jobs in self._each_at_work(turns)
        ]
        return found[0] if len(found) == 1 else torch.cat(found)[_order(turns)]

    def _velocity(self, expert: int, latents: Latents, times: Tensor, condition: Condition) -> Latents:
        transformer = self.expert(expert)
        with self.with_switched(expert):
            output = transformer(**self._inputs(transformer, latents, times, condition), return_dict=False)
        return condition.stilled(self.family.velocity(output[0], latents, times))

    def _cached_velocity(
        self,
        steps: CachedSteps,
        latents: Latents,
        timestep: float,
        condition: Condition,
        trajectory: str,
    ) -> Latents:
        (expert,) = self._turns(timestep, len(latents))
        self.put_to_work([expert])
        times, found = self._placed(latents, timestep)[1], []
        for job in range(len(latents)):
            with steps.run(self.expert(expert), expert, timestep, f"{trajectory} {job}"):
                found.append(self._velocity(expert, latents[[job]], times[[job]], condition[[job]]))
        return torch.cat(found)

    def _turns(self, timestep: float | Tensor, num_jobs: int) -> dict[int, list[int]]:
        """Return the jobs of each expert that works at their noise levels."""
        if len(self.family.experts) == 1:
            return {0: list(range(num_jobs))}
        times: list[float] = torch.as_tensor(timestep).expand(num_jobs).tolist()
        experts = [self.family.expert_at(time) for time in times]
        return {each: [job for job in range(num_jobs) if experts[job] == each] for each in sorted(set(experts))}

    def _each_at_work(self, turns: Mapping[int, list[int]]) -> Iterator[tuple[int, list[int]]]:
        """Yield experts with their jobs, each on the device; all of them stay there if gradients may be wanted."""
        for expert, jobs in turns.items():
            self.put_to_work(turns if torch.is_grad_enabled() else [expert])
            yield expert, jobs

    def capture(self, latents: Latents, timestep: float | Tensor, condition: Condition, request: Request) -> Capture:
        """Bring what is asked for by an exact early exit, see :mod:`.capture`.

        Raises:
            ValueError: If the transformer has no such block.
            RuntimeError: If the transformer's pass ends without what is asked for.
        """
        for block in request.blocks:
            self.check_block(block)
        self.keep_blocks(self.num_blocks if request.velocity else max(request.blocks, default=-1) + 1)
        turns, times = self._turns(timestep, len(latents)), self._placed(latents, timestep)[1]
        with torch.set_grad_enabled(request.gradient and torch.is_grad_enabled()):
            found = [
                self._capture(expert, latents[jobs], times[jobs], condition[jobs], request)
                if len(turns) > 1
                else self._capture(expert, latents, times, condition, request)
                for expert, jobs in self._each_at_work(turns)
            ]
        return found[0] if len(found) == 1 else Capture.joined(found, _order(turns), latents)

    def _capture(
        self, expert: int, latents: Latents, times: Float[Tensor, "jobs"], condition: Condition, request: Request
    ) -> Capture:
        transformer = self.expert(expert)
        modules = self.family.blocks(transformer)
        blocks = {block: modules[block] for block in request.blocks}
        attentions = {block: self.family.attention(module) for block, module in blocks.items()}
        grid, num_frames = self.token_grid(latents), self.num_token_frames(latents.shape[2])
        placed = latents.to(self.device)
        inputs = self._inputs(transformer, placed, times, condition)
        behind = dict(enumerate(modules)).get(max(request.blocks, default=-1) + 1)
        with self.with_switched(expert):
            seen, output = capturing(transformer, blocks, attentions, request, behind, return_dict=False, **inputs)
        velocity = None
        if output is not None:
            velocity = condition.stilled(self.family.velocity(output[0], placed, times))
            velocity = velocity if request.velocity else velocity.detach()

        def framed(tokens: Mapping[int, Tensor]) -> dict[int, Tensor]:
            return {block: self._of_video(x, num_frames, grid) for block, x in tokens.items()}

        return Capture(
            latents,
            times / 1000,
            grid,
            query=framed(seen.query),
            key=framed(seen.key),
            unrotated_query=framed(seen.unrotated_query),
            unrotated_key=framed(seen.unrotated_key),
            hidden=framed(seen.hidden),
            velocity=velocity,
        )

    def _of_video(self, tokens: Tensor, num_frames: int, grid: tuple[int, int]) -> Tensor:
        """Return the video's tokens by frame; hidden states have no others."""
        num_tokens = num_frames * grid[0] * grid[1]
        own = tokens[:, -num_tokens:] if self.family.text_tokens == "first" else tokens[:, :num_tokens]
        framed: Tensor = own.unflatten(1, (num_frames, grid[0] * grid[1]))
        return framed

    def _placed(self, latents: Tensor, timestep: float | Tensor) -> tuple[Tensor, Float[Tensor, "jobs"]]:
        times = torch.as_tensor(timestep, dtype=torch.float32).to(self.device, non_blocking=True)
        return latents.to(self.device), times.expand(len(latents))

    def _inputs(self, transformer: ModelMixin, latents: Tensor, times: Tensor, condition: Condition) -> dict[str, Any]:
        # Cast by hand rather than by autocast, which would hand out a stale copy of latents that are being optimised.
        return self.family.inputs(transformer, latents, times, condition, self.dtype)


def _order(turns: Mapping[int, list[int]]) -> list[int]:
    """Return where each job is among the experts' jobs, one expert's after the other's."""
    jobs = [job for of_expert in turns.values() for job in of_expert]
    return [jobs.index(job) for job in range(len(jobs))]


def load_backbone(model: str = "wan-tiny", **settings: Any) -> DiffusersBackbone:
    """Return a pretrained video model, whose weights are read when they are first used.

    Args:
        model: ``wan-tiny``, a local diffusers folder, or a hub id such as ``Wan-AI/Wan2.1-T2V-1.3B-Diffusers``.
        **settings: See :class:`DiffusersBackbone`.

    Raises:
        ValueError: If there is no such model, it is not supported, or a setting cannot be used.
    """
    return DiffusersBackbone(model, **settings)
