"""What motion transfer needs of a video diffusion transformer.

Axes: ``jobs``, ``channels``, ``frames``, ``height``, ``width``, ``tokens`` (of a frame), ``heads``, ``dim`` (of one).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager

import torch
from diffusers import ModelMixin
from jaxtyping import Float
from torch import Tensor, nn

from fastvmt_pl.backbones.condition import Condition
from fastvmt_pl.backbones.families.family import Family
from fastvmt_pl.backbones.precision import Quantization
from fastvmt_pl.backbones.request import Capture, FrameTokens, Latents, Request
from fastvmt_pl.backbones.step_cache import CachedSteps, StepCache
from fastvmt_pl.clips.clip import Video
from fastvmt_pl.errors import UserError


class Backbone(ABC):
    """A pretrained, frozen video model.

    Attributes:
        family: What is particular to the family of models.
        name: What the user asked for: a hub id, a folder or the name of the bundled model.
        licence: Licence of the weights, as their card names it.
        source: Where the weights come from.
        num_blocks: Transformer blocks.
        lora_targets: Names of the linear layers that a LoRA adapts by default.
        device: Where it computes.
        quantization: How the frozen weights are quantised; ``None`` if they are not.
        offload_blocks: Whether blocks wait in the CPU's memory, so that no gradient can go through all of them.
    """

    family: Family
    name: str
    licence: str
    source: str
    num_blocks: int
    lora_targets: tuple[str, ...]
    device: torch.device
    quantization: Quantization | None = None
    offload_blocks: bool = False

    @abstractmethod
    def load_weights(self) -> None:
        """Read the weights of the transformer and the autoencoder now, and not when they are first used."""

    @abstractmethod
    def parts(self) -> dict[str, nn.Module]:
        """Return the models that it is made of, by name, reading them if need be."""

    @abstractmethod
    def lora_model(self, expert: int = 0) -> ModelMixin:
        """Return the frozen transformer, which a LoRA is added to; of several, the one with this number."""

    @abstractmethod
    def hold(self, experts: Iterable[int]) -> None:
        """Keep some of several transformers on the device, even while another one works."""

    @abstractmethod
    def fingerprint(self) -> str:
        """Return a hash that changes with the weights or the arithmetic, for caches."""

    @abstractmethod
    def to(self, device: torch.device | str) -> "Backbone":
        """Compute on a device from now on."""

    @abstractmethod
    def check_geometry(self, num_frames: int, height: int, width: int) -> None:
        """Raise ``ValueError`` if the model cannot make videos of this geometry, naming one that it can."""

    @abstractmethod
    def geometry_within(self, num_frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Return frames, height and width of the largest video that the model makes within these."""

    def check_images(self, *, given: bool) -> None:
        """Check whether videos may begin with images.

        Args:
            given: Whether there are images.

        Raises:
            UserError: If the model takes none, or needs them.
        """
        if given and self.family.images == "none":
            raise UserError(
                f"{self.name} makes videos of text alone; leave the image out, or use a model that takes one"
            )
        if not given and self.family.images == "required":
            raise UserError(f"{self.name} makes videos that begin with an image; give one with --image")

    @abstractmethod
    def check_block(self, block: int) -> None:
        """Raise ``ValueError`` if the model has no such block."""

    @abstractmethod
    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Return channels, frames, height and width of the latents of a video."""

    @abstractmethod
    def video_shape(self, latent_shape: tuple[int, int, int, int]) -> tuple[int, int, int]:
        """Return frames, height and width of the video that latents stand for."""

    @abstractmethod
    def num_token_frames(self, num_latent_frames: int) -> int:
        """Return the frames of tokens that latent frames make."""

    @abstractmethod
    def token_grid(self, latents: Latents) -> tuple[int, int]:
        """Return the rows and columns of tokens in each latent frame."""

    @abstractmethod
    def encode(self, video: Video) -> Latents:
        """Encode a video, without sampling."""

    @abstractmethod
    def decode(self, latents: Latents) -> Video:
        """Decode a video."""

    @abstractmethod
    def embed_prompts(self, prompts: list[str]) -> Condition:
        """Embed prompts, a row each, and load the text encoder if it is needed."""

    @abstractmethod
    def embed_images(self, images: Video, num_frames: int) -> Condition:
        """Return what the model is told of the images that videos begin with, a row each, to join with the prompts'.

        Args:
            images: The images, as videos of one frame.
            num_frames: Frames of the videos.
        """

    @abstractmethod
    def release_text_encoder(self) -> None:
        """Give the text encoder's memory on the device back."""

    @abstractmethod
    def velocity(
        self, latents: Latents, timestep: float | Tensor, condition: Condition, trajectory: str = "cond"
    ) -> Latents:
        """Predict the flow-matching velocity (noise less clean latents), in fp32.

        Args:
            latents: Noisy latents.
            timestep: Noise level times 1000, one for all jobs or one for each.
            condition: What each job is conditioned on.
            trajectory: ``cond`` or ``uncond``: the passes that a cache may compare.
        """

    @abstractmethod
    def cached(
        self, cache: StepCache, sigmas: Float[Tensor, "steps_and_end"], first: int
    ) -> AbstractContextManager[CachedSteps]:
        """Predict velocities with a cache within a block, which takes the steps of one sampling from some step on.

        Args:
            cache: The cache.
            sigmas: Noise levels of the whole sampling, the final zero included.
            first: The first step with the cache.
        """

    def check_step_cache(self, cache: StepCache) -> None:
        """Raise ``UserError`` if diffusers has no such cache for the model."""
        if cache.method not in self.family.step_caches:
            raise UserError(
                f"diffusers has no step cache {cache.method} for {self.name}; use "
                f"{' or '.join(self.family.step_caches)}"
            )

    @abstractmethod
    def check_loras(self, loras: Mapping[str, float]) -> None:
        """Check LoRAs without reading the model's weights.

        Raises:
            UserError: If one is not found, or any part of it cannot be applied.
        """

    @abstractmethod
    def adapted(self, loras: Mapping[str, float]) -> AbstractContextManager[None]:
        """Have LoRAs on within a block, beside those that are fused. The weights stay to the bit what they are.

        Args:
            loras: Weight of each LoRA, by its folder or file.

        Raises:
            UserError: If a LoRA cannot be used.
        """

    @abstractmethod
    def capture(self, latents: Latents, timestep: float | Tensor, condition: Condition, request: Request) -> Capture:
        """Run the transformer until it has computed what is asked for, and nothing after it, forward or backward.

        Args:
            latents: Noisy latents; gradients flow to them.
            timestep: Noise level times 1000, one for all jobs or one for each.
            condition: What each job is conditioned on.
            request: What to bring.

        Raises:
            ValueError: If the model has no such block.
        """

    def query_key(
        self, latents: Latents, timestep: float | Tensor, condition: Condition, block: int, *, rotary: bool = True
    ) -> tuple[FrameTokens, FrameTokens]:
        """Return a block's self-attention queries and keys, after the rotary embedding or before it."""
        if rotary:
            found = self.capture(latents, timestep, condition, Request(query_key=frozenset({block})))
            return found.query[block], found.key[block]
        found = self.capture(latents, timestep, condition, Request(unrotated=frozenset({block})))
        return found.unrotated_query[block], found.unrotated_key[block]
