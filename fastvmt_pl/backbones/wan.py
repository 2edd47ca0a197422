"""The Wan family (Wan 2.1 text to video, and the bundled wan-tiny) through diffusers' own classes."""

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from diffusers import AutoencoderKLWan, ModelMixin, WanPipeline, WanTransformer3DModel
from einops import rearrange
from torch import Tensor

from fastvmt_pl.backbones.capture import QueryKeyReached, apply_rotary, stopping_at
from fastvmt_pl.backbones.folder import check_classes, check_weights, read_json, read_licence, resolve_model
from fastvmt_pl.backbones.padding import NUM_TEXT_TOKENS, count_padding, trim_padding
from fastvmt_pl.backbones.protocol import Backbone, FrameTokens, Latents, PromptEmbeddings, Text, Video
from fastvmt_pl.lora import find_lora, fuse_loras

Precision = Literal["float32", "bfloat16", "float16"]

COMPONENTS = {"transformer": "WanTransformer3DModel", "vae": "AutoencoderKLWan", "text_encoder": "UMT5EncoderModel"}
FRAME_CHUNK = 4
"""``AutoencoderKLWan`` works in chunks of this many frames whatever its config says."""
SIZE_MULTIPLE = 16
"""``WanPipeline`` asks for heights and widths that divide by this."""


class WanBackbone(Backbone):
    """A Wan text-to-video pipeline folder in diffusers format.

    Checks the folder when made, and fetches and reads weights when they are first used.

    Args:
        model: ``wan-tiny``, a local diffusers folder, or a hub id such as ``Wan-AI/Wan2.1-T2V-1.3B-Diffusers``.
        dtype: Precision of the transformer and the text encoder; the autoencoder and all latents stay in fp32.
        gradient_checkpointing: Trade a second forward pass for the memory of the activations.
        vae_tiling: Encode and decode in tiles, which bounds the autoencoder's memory at large sizes.
        revision: Branch, tag or commit on the hub.
        loras: Weight of each LoRA that is fused into the transformer, by its folder or ``.safetensors`` file.

    Raises:
        ValueError: If there is no such model or LoRA, it is of an unsupported class, or has no safetensors weights.
    """

    lora_targets = ("to_q", "to_k", "to_v", "to_out.0")

    def __init__(
        self,
        model: str = "wan-tiny",
        dtype: Precision = "float32",
        gradient_checkpointing: bool = False,
        vae_tiling: bool = False,
        revision: str | None = None,
        loras: dict[str, float] | None = None,
    ) -> None:
        self.name = str(model)
        self.revision = revision
        folder = resolve_model(model, revision, weights=False)
        check_classes(folder, "WanPipeline", COMPONENTS)
        if Path(model).expanduser() == folder:
            check_weights(folder, COMPONENTS)
        config = read_json(folder / "transformer" / "config.json", needed=("num_layers", "patch_size"))
        if read_json(folder / "model_index.json").get("boundary_ratio") is not None or config.get("image_dim"):
            raise ValueError(f"{self.name} is a two-expert or image-to-video Wan; use a Wan 2.1 text-to-video model")
        self.num_blocks = int(config["num_layers"])
        self.patch_size: tuple[int, int, int] = tuple(config["patch_size"])
        vae = read_json(folder / "vae" / "config.json")
        self.latent_channels = int(vae.get("z_dim", 16))
        self.temporal_factor = int(vae.get("scale_factor_temporal", 4))
        self.spatial_factor = int(vae.get("scale_factor_spatial", 8))
        self.licence, self.source = read_licence(folder), str(folder)
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.gradient_checkpointing, self.vae_tiling = gradient_checkpointing, vae_tiling
        self.loras = {find_lora(path): weight for path, weight in (loras or {}).items()}
        self.device = torch.device("cpu")
        self._embedded: dict[str, Tensor] = {}

    @cached_property
    def folder(self) -> Path:
        """The model's folder with its weights, fetched if need be."""
        folder = resolve_model(self.name, self.revision)
        check_weights(folder, COMPONENTS)
        return folder

    def fingerprint(self) -> str:
        """Return a hash of precision, tiling, LoRAs, and the names, sizes and samples of configs and weights."""
        digest = hashlib.sha256(f"{self.dtype} {self.vae_tiling}".encode())
        for part in COMPONENTS:
            for path in sorted(path for path in (self.folder / part).iterdir() if path.is_file()):
                digest.update(f"{part}/{path.name}:{path.stat().st_size}".encode())
                digest.update(_sample_of(path))
        for path, weight in self.loras.items():
            digest.update(f"{weight}:".encode() + path.read_bytes())
        return digest.hexdigest()[:16]

    @cached_property
    def transformer(self) -> WanTransformer3DModel:
        """The frozen transformer."""
        transformer = WanTransformer3DModel.from_pretrained(
            self.folder / "transformer", torch_dtype=self.dtype, use_safetensors=True
        )
        fuse_loras(transformer, self.loras)
        if self.gradient_checkpointing:
            transformer.enable_gradient_checkpointing()
        count_padding(transformer)
        return transformer.requires_grad_(False).eval().to(self.device)

    @cached_property
    def vae(self) -> AutoencoderKLWan:
        """The frozen autoencoder."""
        vae = AutoencoderKLWan.from_pretrained(self.folder / "vae", torch_dtype=torch.float32, use_safetensors=True)
        if self.vae_tiling:
            vae.enable_tiling()
        return vae.requires_grad_(False).eval().to(self.device)

    @cached_property
    def text_pipeline(self) -> WanPipeline:
        """A pipeline of the tokenizer and the text encoder alone, for Wan's own way of embedding a prompt."""
        pipeline = WanPipeline.from_pretrained(
            self.folder, transformer=None, vae=None, torch_dtype=self.dtype, use_safetensors=True
        )
        return pipeline.to(self.device)

    def load_weights(self) -> None:
        """Read the weights of the transformer and the autoencoder now, and not when they are first used."""
        _ = self.transformer, self.vae

    def to(self, device: torch.device | str) -> Backbone:
        """Compute on a device from now on."""
        self.device = torch.device(device)
        for part in {"transformer", "vae", "text_pipeline"} & vars(self).keys():
            getattr(self, part).to(self.device)
        return self

    def lora_model(self) -> ModelMixin:
        """Return the transformer."""
        return self.transformer

    def check_geometry(self, num_frames: int, height: int, width: int) -> None:
        """Raise ``ValueError`` unless frames are 4 n + 1 and the size divides by 16 and by the transformer's patch."""
        if num_frames < FRAME_CHUNK + 1 or num_frames % FRAME_CHUNK != 1:
            nearest = max(1, round((num_frames - 1) / FRAME_CHUNK)) * FRAME_CHUNK + 1
            raise ValueError(f"num_frames is {num_frames}; {self.name} makes 4 n + 1 frames, for example {nearest}")
        for side, pixels, patch in (("height", height, self.patch_size[1]), ("width", width, self.patch_size[2])):
            step = max(SIZE_MULTIPLE, self.spatial_factor * patch)
            if pixels < step or pixels % step:
                nearest = max(1, round(pixels / step)) * step
                raise ValueError(f"{side} is {pixels}; {self.name} needs a multiple of {step}, for example {nearest}")

    def check_block(self, block: int) -> None:
        """Raise ``ValueError`` if the transformer has no such block."""
        if not 0 <= block < self.num_blocks:
            raise ValueError(f"block is {block}; {self.name} has blocks 0 to {self.num_blocks - 1}")

    def latent_shape(self, num_frames: int, height: int, width: int) -> tuple[int, int, int, int]:
        """Return channels, frames, height and width of the latents of a video."""
        frames = (num_frames - 1) // self.temporal_factor + 1
        return self.latent_channels, frames, height // self.spatial_factor, width // self.spatial_factor

    def video_shape(self, latent_shape: tuple[int, int, int, int]) -> tuple[int, int, int]:
        """Return frames, height and width of the video that latents stand for."""
        _, frames, height, width = latent_shape
        return (frames - 1) * self.temporal_factor + 1, height * self.spatial_factor, width * self.spatial_factor

    def token_grid(self, latents: Latents) -> tuple[int, int]:
        """Return the rows and columns of tokens in each latent frame."""
        return latents.shape[-2] // self.patch_size[1], latents.shape[-1] // self.patch_size[2]

    @torch.no_grad()
    def encode(self, video: Video) -> Latents:
        """Encode a video to the mode of its latents, normalised."""
        mean, std = self._latent_statistics()
        latents: Tensor = self.vae.encode(video.to(self.device)).latent_dist.mode()
        return (latents - mean) / std

    @torch.no_grad()
    def decode(self, latents: Latents) -> Video:
        """Decode normalised latents."""
        mean, std = self._latent_statistics()
        video: Tensor = self.vae.decode(latents.to(self.device) * std + mean).sample
        return video

    def _latent_statistics(self) -> tuple[Tensor, Tensor]:
        config = self.vae.config
        mean, std = (torch.tensor(x, device=self.device) for x in (config.latents_mean, config.latents_std))
        return rearrange(mean, "c -> 1 c 1 1 1"), rearrange(std, "c -> 1 c 1 1 1")

    @torch.no_grad()
    def embed_prompts(self, prompts: list[str]) -> PromptEmbeddings:
        """Embed prompts as ``WanPipeline`` does: cleaned, and filled up with zeros to 512 tokens.

        Embeddings are kept, so that a prompt that was embedded before does not need the text encoder again.
        """
        for prompt in prompts:
            if prompt not in self._embedded:
                self._embedded[prompt], _ = self.text_pipeline.encode_prompt(
                    prompt, do_classifier_free_guidance=False, max_sequence_length=NUM_TEXT_TOKENS
                )
        return torch.cat([self._embedded[prompt] for prompt in prompts]).to(self.device)

    def release_text_encoder(self) -> None:
        """Give the text encoder's memory back; it is read again if it is needed again."""
        vars(self).pop("text_pipeline", None)

    def velocity(self, latents: Latents, timestep: float | Tensor, text: Text) -> Latents:
        """Predict the flow-matching velocity, in fp32."""
        predicted: Tensor = self.transformer(*self._inputs(latents, timestep, text), return_dict=False)[0]
        return predicted.float()

    def query_key(
        self,
        latents: Latents,
        timestep: float | Tensor,
        text: Text,
        block: int,
        *,
        rotary: bool = True,
    ) -> tuple[FrameTokens, FrameTokens]:
        """Return a block's queries and keys after their norm; an exact early exit, see :mod:`.capture`."""
        self.check_block(block)
        try:
            with stopping_at(self.transformer, block):
                self.transformer(*self._inputs(latents, timestep, text), return_dict=False)
        except QueryKeyReached as reached:
            query, key, angles = reached.query, reached.key, reached.rotary
        if rotary:
            query, key = apply_rotary(query, angles), apply_rotary(key, angles)
        frames = latents.shape[2] // self.patch_size[0]
        query, key = (rearrange(x, "b (f s) h d -> b f s h d", f=frames) for x in (query, key))
        return query, key

    def _inputs(self, latents: Tensor, timestep: float | Tensor, text: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        # Cast here rather than by autocast, which would hand out a stale copy of latents that are being optimised.
        times = torch.as_tensor(timestep, device=self.device, dtype=torch.float32).expand(len(latents))
        return latents.to(self.device, self.dtype), times, trim_padding(text).to(self.device, self.dtype)


def _sample_of(path: Path, num_samples: int = 64, size: int = 1 << 14) -> bytes:
    """Return evenly spaced pieces of a file, which tell weights apart without reading gigabytes of them."""
    total = path.stat().st_size
    with path.open("rb") as file:
        pieces = []
        for index in range(num_samples):
            file.seek(max(0, total - size) * index // (num_samples - 1))
            pieces.append(file.read(size))
    return b"".join(pieces)
