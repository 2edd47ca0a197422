"""The Wan family (Wan 2.1 text to video, and the bundled wan-tiny) through diffusers' own classes."""

import hashlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, ModelMixin, WanPipeline, WanTransformer3DModel
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from fastvmt_pl.backbones.attention_kernel import check_backend, try_backend, use_backend
from fastvmt_pl.backbones.backbone import Backbone
from fastvmt_pl.backbones.capture import capturing
from fastvmt_pl.backbones.condition import Condition
from fastvmt_pl.backbones.families.wan_padding import NUM_TEXT_TOKENS, count_padding, trim_padding
from fastvmt_pl.backbones.geometry import WanGeometry
from fastvmt_pl.backbones.model_folder import check_classes, check_weights, hash_components, read_licence, resolve_model
from fastvmt_pl.backbones.offload import at_work
from fastvmt_pl.backbones.precision import PrecisionOption, settled
from fastvmt_pl.backbones.request import Capture, Latents, Request
from fastvmt_pl.clips.clip import Video
from fastvmt_pl.files.file_hash import file_sha256
from fastvmt_pl.lora import check_loras, find_loras, fuse_loras, lora_files

COMPONENTS = {"transformer": "WanTransformer3DModel", "vae": "AutoencoderKLWan", "text_encoder": "UMT5EncoderModel"}
PARTS = {"folder", "transformer", "vae", "text_pipeline"}
"""What is fetched or read only when it is first used."""


class WanBackbone(WanGeometry, Backbone):
    """A Wan text-to-video pipeline folder in diffusers format.

    Checks the folder when made, and fetches and reads weights when they are first used.

    Args:
        model: ``wan-tiny``, a local diffusers folder, or a hub id such as ``Wan-AI/Wan2.1-T2V-1.3B-Diffusers``.
        dtype: Precision of the transformer and the text encoder; ``auto`` is bfloat16 where the device has instructions
            for it, and float32 elsewhere. The autoencoder and all latents stay in fp32.
        gradient_checkpointing: Trade a second forward pass for the memory of the activations.
        vae_tiling: Encode and decode in tiles, which bounds the autoencoder's memory at large sizes.
        revision: Branch, tag or commit on the hub.
        loras: Weight of each LoRA that is fused into the transformer, by its folder or ``.safetensors`` file. A file
            that cannot be applied as a whole is refused before the model's weights are read.
        offload: Keep the text encoder and the autoencoder in the CPU's memory while they are idle.
        attention_backend: What computes self-attention, by diffusers' name, such as ``flash`` or ``_native_cudnn``;
            ``None`` is PyTorch's choice.
        compile: Compile the transformer's blocks when they first run, by ``torch.compile``.

    Raises:
        ValueError: If there is no such model, it is of an unsupported class, or has no safetensors weights, if a LoRA
            is not found or does not fit the model, or if the attention backend cannot be used here.
    """

    lora_targets = ("to_q", "to_k", "to_v", "to_out.0")

    def __init__(
        self,
        model: str = "wan-tiny",
        dtype: PrecisionOption = "float32",
        gradient_checkpointing: bool = False,
        vae_tiling: bool = False,
        revision: str | None = None,
        loras: dict[str, float] | None = None,
        offload: bool = False,
        attention_backend: str | None = None,
        compile: bool = False,
    ) -> None:
        self.name = str(model)
        self.revision = revision
        folder = resolve_model(model, revision, weights=False)
        check_classes(folder, "WanPipeline", COMPONENTS)
        if Path(model).expanduser() == folder:
            check_weights(folder, COMPONENTS)
        self.read_geometry(folder)
        self.licence, self.source = read_licence(folder), str(folder)
        self.precision: PrecisionOption = dtype
        self.gradient_checkpointing, self.vae_tiling = gradient_checkpointing, vae_tiling
        if attention_backend is not None:
            check_backend(attention_backend)
        self.offload, self.attention_backend, self.compile = offload, attention_backend, compile
        self.loras = find_loras(loras or {})
        if self.loras:
            check_loras(folder, self.loras)
        self.device = torch.device("cpu")
        self._embedded: dict[str, dict[str, Tensor]] = {}

    @cached_property
    def dtype(self) -> torch.dtype:
        """Precision of the weights; ``auto`` is settled at the first use, for the device of that moment."""
        found: torch.dtype = getattr(torch, settled(self.precision, self.device))
        return found

    @cached_property
    def folder(self) -> Path:
        """The model's folder with its weights, fetched if need be."""
        folder = resolve_model(self.name, self.revision)
        check_weights(folder, COMPONENTS)
        return folder

    def fingerprint(self) -> str:
        """Return a hash of precision, tiling, and every byte of LoRAs, configs and weights, which are read for it once.

        Settings that change rounding alone are no part of it: a cache may be shared with and without them.
        """
        digest = hashlib.sha256(f"{self.dtype} {self.vae_tiling}".encode())
        digest.update(hash_components(self.folder, (*COMPONENTS, "tokenizer")).encode())
        for path, weight in self.loras.items():
            digest.update(f"{weight}:{' '.join(map(file_sha256, lora_files(path)))}".encode())
        return digest.hexdigest()[:16]

    @cached_property
    def transformer(self) -> WanTransformer3DModel:
        """The frozen transformer."""
        transformer = WanTransformer3DModel.from_pretrained(
            self.folder / "transformer", torch_dtype=self.dtype, use_safetensors=True
        )
        fuse_loras(transformer, self.loras)
        count_padding(transformer)
        if self.gradient_checkpointing:
            transformer.enable_gradient_checkpointing()
        if self.attention_backend is not None:
            use_backend(transformer, self.attention_backend)
        if self.compile:
            transformer.compile_repeated_blocks()
        return transformer.requires_grad_(False).eval().to(self.device)

    @cached_property
    def vae(self) -> AutoencoderKLWan:
        """The frozen autoencoder, which takes videos one after another."""
        vae = AutoencoderKLWan.from_pretrained(self.folder / "vae", torch_dtype=torch.float32, use_safetensors=True)
        vae.enable_slicing()
        if self.vae_tiling:
            vae.enable_tiling()
        return vae.requires_grad_(False).eval().to(self.idle_device)

    @cached_property
    def text_pipeline(self) -> WanPipeline:
        """A pipeline of the tokenizer and the text encoder alone, for Wan's own way of embedding a prompt."""
        pipeline = WanPipeline.from_pretrained(
            self.folder, transformer=None, vae=None, torch_dtype=self.dtype, use_safetensors=True
        )
        pipeline.text_encoder.to(self.idle_device)
        return pipeline

    @property
    def idle_device(self) -> torch.device:
        """Where the text encoder and the autoencoder are while nothing uses them."""
        return torch.device("cpu") if self.offload else self.device

    def load_weights(self) -> None:
        """Read the weights of the transformer and the autoencoder now, and not when they are first used."""
        _ = self.transformer, self.vae

    def to(self, device: torch.device | str) -> Backbone:
        """Compute on a device from now on.

        Raises:
            ValueError: If the attention backend does not work there.
        """
        self.device = torch.device(device)
        # Not on the CPU, which weights that are to be sharded only pass through.
        if self.attention_backend is not None and self.device.type != "cpu":
            try_backend(self.attention_backend, self.device, self.dtype, self.head_dim)
        if "transformer" in vars(self):
            self.transformer.to(self.device)
        if "vae" in vars(self):
            self.vae.to(self.idle_device)
        if "text_pipeline" in vars(self):
            self.text_pipeline.text_encoder.to(self.idle_device)
        return self

    def parts(self) -> dict[str, nn.Module]:
        """Return the transformer, the autoencoder and the text encoder."""
        return {
            "transformer": self.transformer,
            "autoencoder": self.vae,
            "text encoder": self.text_pipeline.text_encoder,
        }

    def untrained(self, num_blocks: int | None = None, *, random: bool = False) -> Backbone:
        """Return the same model from its configs alone, with fake weights or random ones."""
        from fastvmt_pl.backbones.untrained import UntrainedWan  # which is made of this class

        return UntrainedWan(self, num_blocks, random)

    def lora_model(self) -> ModelMixin:
        """Return the transformer."""
        return self.transformer

    @torch.no_grad()
    def encode(self, video: Video) -> Latents:
        """Encode a video to the mode of its latents, normalised."""
        mean, std = self._latent_statistics()
        with at_work(self.vae, self.device, self.idle_device):
            latents: Tensor = self.vae.encode(video.to(self.device)).latent_dist.mode()
        return (latents - mean) / std

    @torch.no_grad()
    def decode(self, latents: Latents) -> Video:
        """Decode normalised latents."""
        mean, std = self._latent_statistics()
        with at_work(self.vae, self.device, self.idle_device):
            video: Tensor = self.vae.decode(latents.to(self.device) * std + mean).sample
        return video

    def _latent_statistics(self) -> tuple[Tensor, Tensor]:
        config = self.vae.config
        mean, std = (torch.tensor(x, device=self.device) for x in (config.latents_mean, config.latents_std))
        return rearrange(mean, "c -> 1 c 1 1 1"), rearrange(std, "c -> 1 c 1 1 1")

    @torch.no_grad()
    def embed_prompts(self, prompts: list[str]) -> Condition:
        """Embed prompts as ``WanPipeline`` does: cleaned, and filled up with zeros to 512 tokens.

        Embeddings are kept, so that a prompt that was embedded before does not need the text encoder again.
        """
        missing = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._embedded]
        if missing:
            with at_work(self.text_pipeline.text_encoder, self.device, self.idle_device):
                for prompt in missing:
                    embedded = Condition({"text": self._embed(prompt)})
                    self._row = embedded.to("meta")
                    # Kept short and on the CPU: those of a long list of jobs would fill a GPU.
                    self._embedded[prompt] = embedded.to("cpu").compact()
        return Condition.stack([self._embedded[prompt] for prompt in prompts], self._row).to(self.device)

    def _embed(self, prompt: str) -> Float[Tensor, "1 text_tokens text_dim"]:
        embedded: Tensor
        embedded, _ = self.text_pipeline.encode_prompt(
            prompt, do_classifier_free_guidance=False, max_sequence_length=NUM_TEXT_TOKENS
        )
        return embedded

    def release_text_encoder(self) -> None:
        """Give the text encoder's memory back; it is read again if it is needed again, unless it is offloaded."""
        if not self.offload:
            vars(self).pop("text_pipeline", None)

    def velocity(self, latents: Latents, timestep: float | Tensor, condition: Condition) -> Latents:
        """Predict the flow-matching velocity, in fp32."""
        predicted: Tensor = self.transformer(*self._inputs(latents, timestep, condition), return_dict=False)[0]
        return predicted.float()

    def capture(self, latents: Latents, timestep: float | Tensor, condition: Condition, request: Request) -> Capture:
        """Bring what is asked for by an exact early exit, see :mod:`.capture`.

        Raises:
            ValueError: If the transformer has no such block.
            RuntimeError: If the transformer's pass ends without what is asked for.
        """
        for block in request.blocks:
            self.check_block(block)
        blocks = {block: self.transformer.blocks[block] for block in request.blocks}
        attentions = {block: module.attn1 for block, module in blocks.items()}
        frames, grid = latents.shape[2] // self.patch_size[0], self.token_grid(latents)

        def framed(tokens: Mapping[int, Tensor]) -> dict[int, Tensor]:
            return {block: x.unflatten(1, (frames, grid[0] * grid[1])) for block, x in tokens.items()}

        inputs = self._inputs(latents, timestep, condition)
        with torch.set_grad_enabled(request.gradient and torch.is_grad_enabled()):
            seen, output = capturing(self.transformer, blocks, attentions, request, *inputs, return_dict=False)
        return Capture(
            latents,
            inputs[1] / 1000,
            grid,
            query=framed(seen.query),
            key=framed(seen.key),
            unrotated_query=framed(seen.unrotated_query),
            unrotated_key=framed(seen.unrotated_key),
            hidden=framed(seen.hidden),
            velocity=None if output is None else output[0].float(),
        )

    def _inputs(self, latents: Tensor, timestep: float | Tensor, condition: Condition) -> tuple[Tensor, Tensor, Tensor]:
        # Cast here rather than by autocast, which would hand out a stale copy of latents that are being optimised.
        times = torch.as_tensor(timestep, dtype=torch.float32).to(self.device, non_blocking=True).expand(len(latents))
        text = trim_padding(condition.tensors["text"])
        return latents.to(self.device, self.dtype), times, text.to(self.device, self.dtype)
