"""A model made from its configs alone, to see what it costs before any weights are fetched or read."""

import gc
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from functools import cached_property, partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from diffusers import ModelMixin
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import is_traceable_wrapper_subclass, transform_subclass
from torch.utils.hooks import RemovableHandle
from transformers import AutoTokenizer

from fastvmt_pl.backbones.backbone import Backbone
from fastvmt_pl.backbones.condition import Condition
from fastvmt_pl.backbones.diffusers_backbone import DiffusersBackbone
from fastvmt_pl.backbones.pretrained import LAZY
from fastvmt_pl.backbones.request import Latents
from fastvmt_pl.clips.clip import Video
from fastvmt_pl.errors import UserError

FAKE = FakeTensorMode(allow_non_fake_inputs=True)
"""Makes tensors with shape, type and device but no contents, which compute with each other and with real ones."""
Model = TypeVar("Model", bound=nn.Module)


class UntrainedBackbone(DiffusersBackbone):
    """The same classes, sizes and precisions as a model's, without its weights; fused LoRAs change none of them.

    Args:
        backbone: The model whose configs and settings it takes.
        num_blocks: Transformer blocks; default: all of them.
        random: Weights are random numbers to compute with, instead of fake tensors.
    """

    def __init__(self, backbone: DiffusersBackbone, num_blocks: int | None = None, random: bool = False) -> None:
        vars(self).update({name: value for name, value in vars(backbone).items() if name not in LAZY})
        self.folder = Path(backbone.source)
        self.num_blocks = num_blocks or backbone.num_blocks
        self.random = random
        self.embedded, self.switched = {}, {}
        self.experts, self.held = {}, set(backbone.held)
        self.working = {0, *self.held}
        self.num_kept_blocks, self.waiting = 0, dict[int, Callable[[], None]]()

    def load_weights(self) -> None:
        """Make the transformer that works, and the autoencoder."""
        _ = [self.expert(number) for number in self.working], self.vae

    def put_to_work(self, numbers: Iterable[int]) -> None:
        """Have some of the transformers, and be without the others, which wait in the CPU's memory."""
        self.working = {*numbers, *self.held}
        for number in self.experts.keys() - self.working:
            del self.experts[number]
            self.waiting.pop(number, None)
            gc.collect()

    def make_expert(self, number: int) -> ModelMixin:
        """Make a transformer."""
        made = self.family.transformer
        config = made.load_config(self.folder / "transformer")
        transformer = self._filled(
            lambda: made.from_config(config, num_layers=self.num_blocks),
            self.dtype,
            getattr(made, "_keep_in_fp32_modules", None) or (),
        )
        if self.quantization == "fp8" and not self.random:
            with torch.device("meta"):
                quantized = made.from_config(config, num_layers=self.num_blocks)
            self.quantize(quantized)
            cast_while_running(transformer, quantized, self.dtype)
        else:
            with nullcontext() if self.random else FAKE:
                self.quantize(transformer)
        if self.gradient_checkpointing:
            transformer.enable_gradient_checkpointing()
        self.family.prepare(transformer)
        return transformer

    def place(self, number: int) -> None:
        """Let blocks of a transformer wait, if that is set."""
        if number in self.waiting:
            self.waiting.pop(number)()
        if self.offload_blocks and not self.random:
            blocks = self.family.blocks(self.experts[number])
            self.waiting[number] = wait_without_weights(blocks, self.num_kept_blocks)

    @cached_property
    def vae(self) -> ModelMixin:
        """The autoencoder."""
        config = self.family.autoencoder.load_config(self.folder / "vae")
        vae = self._filled(lambda: self.family.autoencoder.from_config(config), torch.float32)
        vae.enable_slicing()
        if self.vae_tiling:
            vae.enable_tiling()
        return vae

    @cached_property
    def text_pipeline(self) -> Any:
        """The real tokenizer and the text encoder."""
        made = self.family.text_encoder
        config = made.config_class.from_pretrained(self.folder / "text_encoder")
        in_fp32 = made._keep_in_fp32_modules if self.dtype == torch.float16 else ()  # as transformers does
        return self.family.pipeline(
            tokenizer=AutoTokenizer.from_pretrained(self.folder / "tokenizer"),
            text_encoder=self._filled(lambda: made(config), self.dtype, in_fp32),
            transformer=None,
            vae=None,
            scheduler=None,
        )

    def image_pipeline(self) -> Any:
        """Return the image encoder alone, which is nothing but weighed."""
        made: Any = self.family.image_encoder
        config = made.config_class.from_pretrained(self.folder / "image_encoder")
        return self.family.pipeline(
            tokenizer=None,
            text_encoder=None,
            image_encoder=self._filled(lambda: made(config), torch.float32),
            transformer=None,
            vae=None,
            scheduler=None,
        )

    def encode(self, video: Video) -> Latents:
        """Encode a video, and be without the autoencoder afterwards if it waits in the CPU's memory then."""
        latents = super().encode(video)
        if self.offload:
            del self.vae
            gc.collect()
        return latents

    def release_text_encoder(self) -> None:
        """Be without the text encoder, which is dropped or waits in the CPU's memory now."""
        vars(self).pop("text_pipeline", None)

    def _embed(self, prompt: str) -> Condition:
        return self.family.blank(self.text_pipeline, prompt).to(self.device)

    def _filled(self, make: Callable[[], Model], dtype: torch.dtype, in_fp32: Iterable[str] = ()) -> Model:
        """Make a model, and give it weights of a precision, but for the modules that stay in fp32."""
        with torch.device("meta"):
            model = make()
        made: dict[int, nn.Parameter] = {}  # by the one it replaces, since a text encoder uses its embedding twice
        for prefix, module in model.named_modules():
            for name, parameter in module._parameters.items():
                if parameter is not None:
                    stays = {*prefix.split("."), name} & set(in_fp32)
                    if id(parameter) not in made:
                        filled = self._fill(parameter, torch.float32 if stays else dtype)
                        made[id(parameter)] = nn.Parameter(filled, requires_grad=False)
                    module._parameters[name] = made[id(parameter)]
            for name, buffer in module._buffers.items():
                if buffer is not None:
                    module._buffers[name] = self._fill(buffer, buffer.dtype)
        return model.eval()

    def _fill(self, empty: Tensor, dtype: torch.dtype) -> Tensor:
        if self.random:
            return torch.randn(empty.shape, dtype=dtype, device=self.device) * 0.02
        with FAKE:
            return torch.empty(empty.shape, dtype=dtype)


def wait_without_weights(blocks: Sequence[nn.Module], num_kept: int) -> Callable[[], None]:
    """Let a model's last blocks have no weights but while they or the blocks before them run, as a GPU has them.

    Args:
        blocks: All blocks, of fake tensors.
        num_kept: How many of the first have weights all the time.

    Returns:
        What gives all blocks weights again.
    """
    waiting, handles = list(blocks[num_kept:]), list[RemovableHandle]()

    def bring(number: int, *_: object) -> None:
        for block in waiting[number : number + 2]:  # the next one is copied meanwhile
            _put_weights(block, "cpu")

    def leave(number: int, *_: object) -> None:
        _put_weights(waiting[number], "meta")

    for number, block in enumerate(waiting):
        leave(number)
        handles.append(block.register_forward_pre_hook(partial(bring, number)))
        handles.append(block.register_forward_hook(partial(leave, number)))

    def bring_all() -> None:
        for handle in handles:
            handle.remove()
        for block in waiting:
            _put_weights(block, "cpu")

    return bring_all


def _put_weights(block: nn.Module, device: str) -> None:
    for module in block.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None and parameter.device.type != device:
                module._parameters[name] = nn.Parameter(_without_contents(parameter, device), requires_grad=False)


def _without_contents(tensor: Tensor, device: str) -> Tensor:
    """Return a tensor of the same kind on the meta device, or a fake one elsewhere."""
    if is_traceable_wrapper_subclass(tensor):
        made: Tensor = transform_subclass(tensor, lambda _, inner: _without_contents(inner, device))
        return made
    with nullcontext() if device == "meta" else FAKE:
        return torch.empty(tensor.shape, dtype=tensor.dtype, device=device)


def cast_while_running(transformer: ModelMixin, quantized: ModelMixin, dtype: torch.dtype) -> None:
    """Give a model of fake tensors the weights of a quantised one; fake tensors cannot be cast in place, as it does.

    Args:
        transformer: Changed in place.
        quantized: The same model on the meta device.
        dtype: Precision of a layer while it runs.
    """
    stored = {name: parameter.dtype for name, parameter in quantized.named_parameters() if parameter.itemsize == 1}
    for prefix, module in transformer.named_modules():
        kept = module._parameters
        for name, parameter in kept.items():
            dtype_of_name = stored.get(f"{prefix}.{name}")
            if parameter is not None and dtype_of_name is not None:
                kept[name] = nn.Parameter(parameter.to(dtype_of_name), requires_grad=False)
        if any(f"{prefix}.{name}" in stored for name in kept):
            module.register_forward_pre_hook(partial(_cast, dtype))
            module.register_forward_hook(partial(_put_back, kept))


def _cast(dtype: torch.dtype, module: nn.Module, args: Any) -> None:
    module._parameters = {
        name: None if each is None else nn.Parameter(each.to(dtype), requires_grad=False)
        for name, each in module._parameters.items()
    }


def _put_back(kept: dict[str, nn.Parameter | None], module: nn.Module, args: Any, output: Any) -> None:
    module._parameters = kept


def untrained(backbone: Backbone, num_blocks: int | None = None, *, random: bool = False) -> UntrainedBackbone:
    """Return the same model from its configs alone, to plan with: nothing is fetched, and no weights are read.

    Args:
        backbone: The model.
        num_blocks: Transformer blocks that it has; default: all of them.
        random: Weights are random numbers on its device; otherwise they are fake tensors on the CPU, which have
            shapes but no contents and are all that a :class:`~fastvmt_pl.planning.meter.TensorMeter` needs.

    Raises:
        UserError: If it is no model of diffusers, of whose configs nothing is known.
    """
    if not isinstance(backbone, DiffusersBackbone):
        raise UserError(f"{backbone.name} is a {type(backbone).__name__}; only models of diffusers can be planned")
    return UntrainedBackbone(backbone, num_blocks, random)
