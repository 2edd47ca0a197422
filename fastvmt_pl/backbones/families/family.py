"""What is particular to a family of models. Nothing outside this package knows one.

Axes: ``jobs``, ``channels``, ``latent_frames``, ``latent_height``, ``latent_width``.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from diffusers import ModelMixin
from jaxtyping import Float
from torch import Tensor, nn

from fastvmt_pl.backbones.condition import Condition
from fastvmt_pl.backbones.geometry import Geometry
from fastvmt_pl.backbones.model_folder import architecture, check_classes, read_json
from fastvmt_pl.backbones.request import Latents
from fastvmt_pl.clips.clip import Video
from fastvmt_pl.errors import UserError
from fastvmt_pl.lora import HALVES
from fastvmt_pl.lora.layer_names import LayerNames

ROUNDING = 1e-3
"""A difference of timesteps that fp32 does not round away."""
Encoded = Float[Tensor, "jobs channels encoded_frames latent_height latent_width"]
"""The autoencoder's latents as it makes them."""


@dataclass(frozen=True)
class Defaults:
    """What a model is used with unless the user chooses otherwise.

    Attributes:
        config: Name of the shipped config of motion transfer; ``None`` if none fits the model.
        lora_config: Name of the shipped config for training a LoRA.
        prompts: Name of the shipped file of prompts that the model understands.
        negative_prompt: What to steer away from.
        fps: Frame rate of the videos that the model was trained on, in frames a second.
        teacher_batch_size: Guided samples that are made at a time for a LoRA to learn from.
    """

    config: str | None
    lora_config: str
    prompts: str
    negative_prompt: str
    fps: float
    teacher_batch_size: int = 1


class Family(ABC):
    """How a model of a family is read, called and named; made from a folder's configs, it holds no weights.

    Args:
        folder: The model's diffusers folder, of which only configs are read.
        name: What the user calls the model.

    Raises:
        ValueError: If the folder is damaged or holds a member of the family that is not supported.
    """

    pipeline: ClassVar[type[Any]]
    """The stock pipeline."""
    transformer: ClassVar[type[ModelMixin]]
    autoencoder: ClassVar[type[ModelMixin]]
    text_encoder: ClassVar[type[Any]]
    text_tokens: ClassVar[Literal["none", "first", "last"]]
    """Where the text's tokens are among those of the self-attention."""
    lora_targets: ClassVar[tuple[str, ...]] = ("to_q", "to_k", "to_v", "to_out.0")
    """Endings of the names of the linear layers that a LoRA adapts by default."""
    layer_names: LayerNames
    step_caches: tuple[str, ...] = ("first_block", "mag")
    """The caches of denoising steps that diffusers has for it, by the names of :class:`.step_cache.StepCache`."""
    chooses_kernel: ClassVar[bool] = True
    """Whether diffusers lets the user choose what computes its self-attention."""
    image_encoder: type[Any] | None = None
    """What looks at the image that a video begins with; ``None`` if the autoencoder alone does."""
    experts: tuple[str, ...] = ("transformer",)
    """The folders of the transformers, which have the same layers: one, or one for high and one for low noise."""
    boundary: float = 0.0
    """Noise level times 1000 from which on the first expert works; below it, the second does."""
    images: Literal["none", "optional", "required"] = "none"
    """Whether the model makes videos that begin with an image."""
    geometry: Geometry
    defaults: Defaults

    def __init__(self, folder: Path, name: str) -> None:
        self.folder, self.name = folder, name
        self.check_kind(read_json(folder / "model_index.json"))
        check_classes(folder, self.components)
        self.config = read_json(folder / "transformer" / "config.json", needed=("num_layers", "attention_head_dim"))
        self.autoencoder_config = read_json(folder / "vae" / "config.json")
        for other in self.experts[1:]:
            self._check_same_layers(other)
        self.read()

    def _check_same_layers(self, other: str) -> None:
        first, second = (architecture(self.folder, name) for name in (self.experts[0], other))
        differing = sorted(name for name in {**first, **second} if first.get(name) != second.get(name))
        if differing:
            raise UserError(
                f"{self.name} has two experts that differ in {', '.join(differing)}; {self.experts[0]} and {other} are "
                "of different models"
            )

    @property
    def components(self) -> Mapping[str, str]:
        """Class names of the components that have weights."""
        classes = {name: self.transformer for name in self.experts}
        classes |= {"vae": self.autoencoder, "text_encoder": self.text_encoder}
        return {name: each.__name__ for name, each in classes.items()}

    @property
    def expert_names(self) -> tuple[str, ...]:
        """What the experts are called in settings and in the names of files; nothing if there is one."""
        return HALVES if len(self.experts) > 1 else ("",)

    def expert_at(self, timestep: float) -> int:
        """Return the number of the expert that works at a noise level times 1000.

        It is compared in fp32, as stock pipelines have it: 0.9 in fp32 is below 0.9, but times 1000 it is 900.
        """
        return 0 if torch.tensor(timestep, dtype=torch.float32).item() >= self.boundary else 1

    def noise_levels(self, expert: int) -> tuple[float, float]:
        """Return the lowest and the highest noise level at which an expert works."""
        if len(self.experts) == 1:
            return 0.0, 1.0
        return (self.boundary / 1000, 1.0) if expert == 0 else (0.0, (self.boundary - ROUNDING) / 1000)

    @property
    def hashed(self) -> tuple[str, ...]:
        """The folders whose every byte tells models apart."""
        return (*self.components, "tokenizer")

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return the shape of each of the transformer's parameters, by name."""
        with torch.device("meta"):
            model = self.transformer.from_config(self.transformer.load_config(self.folder / "transformer"))
        return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}

    @property
    def described(self) -> str:
        """What the model is, for a user."""
        width = self.config.get("num_attention_heads", 0) * self.config["attention_head_dim"]
        layers, channels = self.geometry.num_blocks, self.geometry.latent_channels
        return f"a {self.pipeline.__name__} of {layers} layers {width} wide and {channels} latent channels"

    @property
    def probe_shape(self) -> tuple[int, int, int, int]:
        """Channels, frames, height and width of the latents that :meth:`probe` takes."""
        side = 4 * max(self.geometry.patch_size)
        return self.geometry.latent_channels, 3 + self.geometry.num_padding_frames, side, side

    def check_kind(self, index: Mapping[str, Any]) -> None:  # noqa: B027  # most families have one kind of pipeline
        """Set what depends on the kind of pipeline, such as its experts, and refuse a kind that is not supported.

        Args:
            index: What ``model_index.json`` says.

        Raises:
            UserError: If the kind is not supported.
        """

    @abstractmethod
    def read(self) -> None:
        """Set geometry and defaults from the configs.

        Raises:
            ValueError: If the model is not supported.
        """

    @abstractmethod
    def blocks(self, transformer: ModelMixin) -> list[nn.Module]:
        """Return all transformer blocks, in the order in which they run."""

    @abstractmethod
    def attention(self, block: nn.Module) -> nn.Module:
        """Return a block's self-attention."""

    def prepare(self, transformer: ModelMixin) -> None:  # noqa: B027  # most families have nothing to prepare
        """Change a transformer that has just been made, such that it computes the same for less."""

    @abstractmethod
    def embed(self, text_pipeline: Any, prompt: str) -> Condition:
        """Embed a prompt.

        Args:
            text_pipeline: The stock pipeline with its tokenizer and text encoder alone.
            prompt: What the video is to show.
        """

    def blank(self, text_pipeline: Any, prompt: str) -> Condition:
        """Return ones in the shape of an embedded prompt, after the text encoder has run on it.

        Real tensors, for a pipeline whose text encoder makes fake ones: what depends on their values can be planned.
        """
        embedded = self.embed(text_pipeline, prompt)
        return Condition({name: torch.ones(x.shape, dtype=x.dtype) for name, x in embedded.tensors.items()})

    def embed_image(
        self, encode: Callable[[Video], Latents], image: Float[Tensor, "1 3 1 height width"], num_frames: int
    ) -> Condition:
        """Return what the autoencoder says of the image that a video begins with, for a model that takes images.

        Args:
            encode: Encodes a video to normalised latents.
            image: The image, -1 to 1.
            num_frames: Frames of the video.
        """
        raise NotImplementedError(f"{self.name} takes no image")

    def see_image(self, image_pipeline: Any, image: Float[Tensor, "1 3 1 height width"]) -> Condition:
        """Return what the image encoder says of the image that a video begins with, for a model that has one.

        Args:
            image_pipeline: The stock pipeline with its image encoder and image processor alone.
            image: The image, -1 to 1.
        """
        raise NotImplementedError(f"{self.name} has no image encoder")

    def blank_image(self, latent_shape: tuple[int, int, int, int]) -> Condition:
        """Return ones in the shape of all that a model that needs an image is told of it, and nothing for others.

        Real tensors, to plan with.

        Args:
            latent_shape: Channels, frames, height and width of the video's latents.
        """
        return Condition({})

    @abstractmethod
    def inputs(
        self,
        transformer: ModelMixin,
        latents: Latents,
        timestep: Float[Tensor, "jobs"],
        condition: Condition,
        dtype: torch.dtype,
    ) -> dict[str, Any]:
        """Return the transformer's arguments, by name.

        Args:
            transformer: What they are for.
            latents: Noisy latents in fp32.
            timestep: Noise level of each job times 1000.
            condition: What each job is conditioned on.
            dtype: Precision of the transformer's weights.
        """

    @abstractmethod
    def velocity(self, output: Tensor, latents: Latents, timestep: Float[Tensor, "jobs"]) -> Latents:
        """Return the velocity (noise less clean latents), in fp32, that the transformer's output stands for."""

    @abstractmethod
    def normalise(self, autoencoder: ModelMixin, latents: Encoded) -> Latents:
        """Return the autoencoder's latents as the transformer expects them."""

    @abstractmethod
    def denormalise(self, autoencoder: ModelMixin, latents: Latents) -> Encoded:
        """Return the transformer's latents as the autoencoder expects them."""

    @abstractmethod
    def example(self) -> Condition:
        """Return a condition of random numbers for latents of :attr:`probe_shape`, with one row."""

    @abstractmethod
    def scheduler_code(self, shift: float) -> tuple[str, str]:
        """Return a scheduler's class name and an expression that makes it for ``pipeline``, for a LoRA's card.

        Args:
            shift: Shift of the noise schedule that the LoRA's videos are sampled with.
        """

    def stock(self, model: Path, expert: int) -> tuple[Any, ModelMixin]:
        """Return a stock pipeline with one of the transformers, in fp32, and that transformer.

        Args:
            model: The model's diffusers folder.
            expert: The number of the transformer; of others, there are no weights.
        """
        empty = ("vae", "text_encoder", "tokenizer", *(() if self.image_encoder is None else ("image_encoder",)))
        without: dict[str, Any] = dict.fromkeys(empty)
        with torch.device("meta"):  # a stock pipeline asks the first one for its config, whichever gets the LoRA
            for other in {*self.experts} - {self.experts[expert]}:
                without[other] = self.transformer.from_config(self.transformer.load_config(model / other))
        made = self.pipeline.from_pretrained(model, torch_dtype=torch.float32, use_safetensors=True, **without)
        return made, getattr(made, self.experts[expert])

    def loading(self, expert: int) -> dict[str, Any]:
        """Return what tells ``load_lora_weights`` of the stock pipeline which transformer a file is for."""
        return {}

    @torch.no_grad()
    def probe(self, transformer: ModelMixin) -> Tensor:
        """Return a transformer's output on fixed inputs, in fp32, to compare what it computes."""
        draw, device = torch.Generator().manual_seed(0), transformer.device
        latents = torch.randn(1, *self.probe_shape, generator=draw).to(device)
        timestep = torch.full((1,), 500.0, device=device)
        inputs = self.inputs(transformer, latents, timestep, self.example().to(device), transformer.dtype)
        output: Tensor = transformer(**inputs, return_dict=False)[0]
        return output.float()
