"""The parts of a pretrained model: a folder that is checked at once, and weights that are read when they are used."""

import hashlib
from collections.abc import Iterable
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin
from torch import Tensor, nn

from fastvmt_pl.backbones.attention_kernel import check_backend, try_backend
from fastvmt_pl.backbones.block_offload import gather, spread
from fastvmt_pl.backbones.families.finding import find_family
from fastvmt_pl.backbones.model_folder import (
    check_weights,
    check_whole,
    hash_components,
    read_licence,
    resolve_model,
)
from fastvmt_pl.backbones.precision import PrecisionOption, Quantization, settled
from fastvmt_pl.backbones.switches_loras import SwitchesLoras
from fastvmt_pl.errors import UserError
from fastvmt_pl.files.file_hash import file_sha256
from fastvmt_pl.lora import SwitchedLoras, fuse_loras, lora_files

LAZY = {"folder", "vae", "text_pipeline"}
"""What is fetched or read only when it is first used."""


class PretrainedParts(SwitchesLoras):
    """A pipeline folder in diffusers format.

    Checks the folder when made, and fetches and reads weights when they are first used.

    Args:
        model: ``wan-tiny``, a local diffusers folder, or a hub id such as ``Wan-AI/Wan2.1-T2V-1.3B-Diffusers``.
        dtype: Precision of the transformer and the text encoder; ``auto`` is bfloat16 where the device has instructions
            for it, and float32 elsewhere. The autoencoder and all latents stay in fp32.
        gradient_checkpointing: Trade a second forward pass for the memory of the activations.
        vae_tiling: Encode and decode in tiles, which bounds the autoencoder's memory at large sizes.
        revision: Branch, tag or commit on the hub.
        loras: Weight of each LoRA that is fused into the transformer, by its folder or ``.safetensors`` file. A file
            that cannot be applied as a whole is refused before the model's weights are read. For a model with two
            experts, either file of a pair, NAME_high_noise and NAME_low_noise, stands for both.
        offload: Keep the text encoder and the autoencoder in the CPU's memory while they are idle.
        offload_blocks: Keep the transformer's blocks behind the one whose motion is read in the CPU's memory, and each
            on the device while it runs.
        attention_backend: What computes self-attention, by diffusers' name, such as ``flash`` or ``_native_cudnn``;
            ``None`` is PyTorch's choice.
        compile: Compile the transformer's blocks when they first run, by ``torch.compile``.
        quantization: ``fp8`` keeps the weights of the transformer's layers in 8-bit floating point (E4M3), half of
            bfloat16's memory, and casts each layer to ``dtype`` while it runs. ``int8`` keeps those of its blocks as
            8-bit integers with a scale for each output channel, which is more exact; it needs the extra ``int8``.
            ``None`` keeps them in ``dtype``.

    Raises:
        ValueError: If there is no such model, it is of an unsupported class, or has no safetensors weights, if a LoRA
            is not found or does not fit the model, or if the attention backend cannot be used here.
    """

    def __init__(
        self,
        model: str = "wan-tiny",
        dtype: PrecisionOption = "float32",
        gradient_checkpointing: bool = False,
        vae_tiling: bool = False,
        revision: str | None = None,
        loras: dict[str, float] | None = None,
        offload: bool = False,
        offload_blocks: bool = False,
        attention_backend: str | None = None,
        compile: bool = False,
        quantization: Quantization | None = None,
    ) -> None:
        self.name = str(model)
        self.revision = revision
        folder = resolve_model(model, revision, weights=False)
        self.family = find_family(folder, self.name)
        self.geometry, self.num_blocks = self.family.geometry, self.family.geometry.num_blocks
        self.lora_targets = self.family.lora_targets
        if Path(model).expanduser() == folder:
            check_weights(folder, self.family.components)
        self.licence, self.source = read_licence(folder), str(folder)
        self.precision: PrecisionOption = dtype
        self.gradient_checkpointing, self.vae_tiling = gradient_checkpointing, vae_tiling
        if attention_backend is not None:
            check_backend(attention_backend)
            if not self.family.chooses_kernel:
                raise UserError(
                    f"attention_backend is {attention_backend!r}, and diffusers lets nobody choose what computes the "
                    f"attention of {self.name}; set it to null"
                )
        if quantization == "int8" and find_spec("torchao") is None:
            raise UserError("quantization int8 needs torchao; pip install 'fastvmt_pl[int8]', or use fp8")
        if compile and quantization is not None:
            raise UserError(f"compile does not go with quantization {quantization}; leave one of them out")
        if compile and offload_blocks:
            raise UserError("compile does not go with offload_blocks; leave one of them out")
        self.offload, self.attention_backend, self.compile = offload, attention_backend, compile
        self.offload_blocks, self.num_kept_blocks = offload_blocks, 0
        self.quantization = quantization
        self.loras = self.found_loras(loras or {})
        self.switched_on: tuple[dict[Path, float], ...] = tuple({} for _ in self.family.expert_names)
        self.switched: dict[int, tuple[str, SwitchedLoras]] = {}
        self.device = torch.device("cpu")
        self.experts: dict[int, ModelMixin] = {}
        self.working, self.held = {0}, set[int]()
        self.embedded: dict[str, dict[str, Tensor]] = {}

    @cached_property
    def dtype(self) -> torch.dtype:
        """Precision of the weights; ``auto`` is settled at the first use, for the device of that moment."""
        found: torch.dtype = getattr(torch, settled(self.precision, self.device))
        return found

    @cached_property
    def folder(self) -> Path:
        """The model's folder with its weights, fetched if need be."""
        folder = resolve_model(self.name, self.revision)
        check_weights(folder, self.family.components)
        check_whole(folder, self.family.components)
        return folder

    def fingerprint(self) -> str:
        """Return a hash of precision, tiling, and every byte of LoRAs, configs and weights, which are read for it once.

        Settings that change rounding alone are no part of it: a cache may be shared with and without them.
        """
        quantized = "" if self.quantization is None else f" {self.quantization}"
        digest = hashlib.sha256(f"{self.dtype} {self.vae_tiling}{quantized}".encode())
        digest.update(hash_components(self.folder, self.family.hashed).encode())
        for name, loras in zip(self.family.expert_names, self.loras, strict=True):
            for path, weight in loras.items():
                digest.update(f"{name}{weight}:{' '.join(map(file_sha256, lora_files(path)))}".encode())
        return digest.hexdigest()[:16]

    @property
    def transformer(self) -> ModelMixin:
        """The frozen transformer; of two, the one for high noise."""
        return self.expert(0)

    def expert(self, number: int) -> ModelMixin:
        """Return one of the frozen transformers, and read it if that was not done; one that is idle is on the CPU."""
        if number not in self.experts:
            self.experts[number] = self.make_expert(number)
            self.place(number)
        return self.experts[number]

    def place(self, number: int) -> None:
        """Put an expert where it is to be."""
        expert = self.experts[number]
        if self.offload_blocks:
            gather(self.family.blocks(expert))
        if self.offload_blocks and number in self.working:
            spread(expert, self.family.blocks(expert), self.device, self.num_kept_blocks)
        else:
            expert.to(self.device if number in self.working else torch.device("cpu"))

    def keep_blocks(self, count: int) -> None:
        """Have at least so many of the first blocks on the device from now on, though blocks are offloaded."""
        if self.offload_blocks and count > self.num_kept_blocks:
            self.num_kept_blocks = count
            for number in self.working & self.experts.keys():
                self.place(number)

    def put_to_work(self, numbers: Iterable[int]) -> None:
        """Put experts on the device, and others into the CPU's memory, but for those that are held.

        Not while something is still to be differentiated by those that go: the backward pass would not find them.
        """
        wanted = {*numbers, *self.held}
        leaving, coming = self.working - wanted, wanted - self.working
        self.working = wanted
        for number in leaving & self.experts.keys():
            self.place(number)
            self.switched.pop(number, None)
        for number in coming & self.experts.keys():
            self.place(number)

    def hold(self, numbers: Iterable[int]) -> None:
        """Have experts on the device from now on, whichever works."""
        self.held = set(numbers)
        self.put_to_work(self.working)

    def make_expert(self, number: int) -> ModelMixin:
        """Read one of the transformers, with its LoRAs fused."""
        transformer = self.family.transformer.from_pretrained(
            self.folder / self.family.experts[number], torch_dtype=self.dtype, use_safetensors=True
        )
        fuse_loras(transformer, self.loras[number], self.family.layer_names)
        self.quantize(transformer)
        self.family.prepare(transformer)
        if self.gradient_checkpointing:
            transformer.enable_gradient_checkpointing()
        for block in self.family.blocks(transformer):
            attention: Any = self.family.attention(block)
            if self.attention_backend is not None:  # cross-attention, whose mask most do not take, is left alone
                attention.set_attention_backend(self.attention_backend)
            if self.compile:
                block.compile()
        made: ModelMixin = transformer.requires_grad_(False).eval()
        return made

    def quantize(self, transformer: ModelMixin) -> None:
        """Quantise a transformer's weights, if that is set."""
        if self.quantization == "fp8":
            transformer.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=self.dtype)
        elif self.quantization == "int8":
            from torchao.quantization import Int8WeightOnlyConfig, quantize_  # an extra

            for block in self.family.blocks(transformer):
                quantize_(block, Int8WeightOnlyConfig())

    @cached_property
    def vae(self) -> ModelMixin:
        """The frozen autoencoder, which takes videos one after another."""
        vae = self.family.autoencoder.from_pretrained(
            self.folder / "vae", torch_dtype=torch.float32, use_safetensors=True
        )
        vae.enable_slicing()
        if self.vae_tiling:
            vae.enable_tiling()
        return vae.requires_grad_(False).eval().to(self.idle_device)

    @cached_property
    def text_pipeline(self) -> Any:
        """A stock pipeline of the tokenizer and the text encoder alone, for its own way of embedding a prompt."""
        others = {name: None for name in self.family.components if name != "text_encoder"}
        pipeline = self.family.pipeline.from_pretrained(
            self.folder, torch_dtype=self.dtype, use_safetensors=True, **others
        )
        pipeline.text_encoder.to(self.idle_device)
        return pipeline

    def image_pipeline(self) -> Any:
        """Read a stock pipeline of the image encoder and its processor alone, for its own way of embedding an image.

        It is in fp32, and not kept: it is needed for a moment before the transformer is for hours.
        """
        others = {name: None for name in (*self.family.components, "tokenizer") if name != "image_encoder"}
        pipeline = self.family.pipeline.from_pretrained(
            self.folder, torch_dtype=torch.float32, use_safetensors=True, **others
        )
        pipeline.image_encoder.to(self.device)
        return pipeline

    @property
    def idle_device(self) -> torch.device:
        """Where the text encoder and the autoencoder are while nothing uses them."""
        return torch.device("cpu") if self.offload else self.device

    def load_weights(self) -> None:
        """Read the weights of all transformers and the autoencoder now, and not when they are first used."""
        _ = [self.expert(number) for number in range(len(self.family.experts))], self.vae

    def move_to(self, device: torch.device) -> None:
        """Put what has been read where it is to be.

        Raises:
            ValueError: If the attention backend does not work there.
        """
        if device != self.device:
            self.switched = {}
        self.device = device
        # Not on the CPU, which weights that are to be sharded only pass through.
        if self.attention_backend is not None and self.device.type != "cpu":
            try_backend(self.attention_backend, self.device, self.dtype, self.geometry.head_dim)
        for number in self.experts:
            self.place(number)
        if "vae" in vars(self):
            self.vae.to(self.idle_device)
        if "text_pipeline" in vars(self):
            self.text_pipeline.text_encoder.to(self.idle_device)

    def parts(self) -> dict[str, nn.Module]:
        """Return the transformers, the autoencoder, the text encoder and, if there is one, the image encoder."""
        parts: dict[str, nn.Module] = {
            f"{name.replace('_', ' ')} transformer".lstrip(): self.expert(number)
            for number, name in enumerate(self.family.expert_names)
        }
        parts |= {"autoencoder": self.vae, "text encoder": self.text_pipeline.text_encoder}
        if self.family.image_encoder is not None:
            parts["image encoder"] = self.image_pipeline().image_encoder
        return parts

    def lora_model(self, expert: int = 0) -> ModelMixin:
        """Return one of the transformers."""
        return self.expert(expert)

    def release_text_encoder(self) -> None:
        """Give the text encoder's memory back; it is read again if it is needed again, unless it is offloaded."""
        if not self.offload:
            vars(self).pop("text_pipeline", None)
