"""The files of a trained LoRA: written in two namings, read back by a stock pipeline and compared."""

import re
from copy import deepcopy
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from diffusers import ModelMixin
from peft.utils import set_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor

from fastvmt_pl.files.atomic import written_whole
from fastvmt_pl.lora.adapters import Adapter, Weights
from fastvmt_pl.lora.layer_names import LayerNames
from fastvmt_pl.lora.sources import DIFFUSERS_FILE

ORIGINAL_FILE = "comfyui_lora.safetensors"
"""In the names of the original code, with alpha tensors: ComfyUI reads no header. A file has one or the other, since
diffusers scales by both if it finds both."""
MAX_DEVIATION = 1e-3
"""Largest difference between a reloaded adapter's effect and that in memory, as a share of it, in full precision."""


@runtime_checkable
class LoraFamily(Protocol):
    """What the files of a LoRA have to know of a family of models."""

    @property
    def pipeline(self) -> type[Any]:
        """The stock pipeline that reads them."""

    @property
    def layer_names(self) -> LayerNames:
        """What the transformer's layers are called."""

    def probe(self, transformer: ModelMixin) -> Tensor:
        """Return a transformer's output on fixed inputs, in fp32."""


class LoraError(RuntimeError):
    """A LoRA that was written is not what it was in memory."""


def written_files(names: LayerNames) -> tuple[str, ...]:
    """Return the files that are written of a LoRA: one for ComfyUI only where it is known to read such names."""
    return (DIFFUSERS_FILE, ORIGINAL_FILE) if names.original else (DIFFUSERS_FILE,)


def write_lora(adapter: Adapter, folder: Path, family: LoraFamily) -> None:
    """Write an adapter as diffusers reads it and, if it can, as ComfyUI does; call it in one process alone.

    Args:
        adapter: The adapter.
        folder: Where the files go.
        family: The family of the adapted model.
    """
    with written_whole(folder / DIFFUSERS_FILE) as path:
        family.pipeline.save_lora_weights(
            path.parent, transformer_lora_layers=adapter.weights, weight_name=path.name, **adapter.metadata
        )
    if ORIGINAL_FILE in written_files(family.layer_names):
        with written_whole(folder / ORIGINAL_FILE) as path:
            save_file(to_original_names(adapter.weights, adapter.config.lora_alpha, family.layer_names), path)


def to_original_names(weights: Weights, alpha: float, names: LayerNames) -> Weights:
    """Rename an adapter's weights as the original code names its layers, with a tensor of alpha for each layer.

    Args:
        weights: By their names in diffusers.
        alpha: The adapter's alpha.
        names: What the layers are called.
    """
    renamed = {}
    for name, weight in weights.items():
        layer, side = re.fullmatch(r"(.*)\.(lora_[AB]\.weight)", name).groups()  # type: ignore[union-attr]
        original = names.original_name(layer)
        renamed[f"diffusion_model.{original}.{side}"] = weight
        renamed[f"diffusion_model.{original}.alpha"] = torch.tensor(float(alpha))
    return renamed


@torch.no_grad()
def verify_lora(adapter: Adapter, folder: Path, model: Path, family: LoraFamily) -> dict[str, float]:
    """Load each written file into a fresh, stock pipeline, and compare what it does there with the adapter in memory.

    What the adapter in memory does is seen in the same pipeline, into which peft puts it without any file. All of it is
    done in float32: it is the files that are in question, not a precision.

    Args:
        adapter: The adapter that was written.
        folder: Where the files are.
        model: The model's diffusers folder.
        family: Its family.

    Returns:
        Each file's deviation: the norm of the difference as a share of the norm of the adapter's effect.

    Raises:
        LoraError: If a file does not do what the adapter does.
    """
    stock = family.pipeline.from_pretrained(
        model, vae=None, text_encoder=None, tokenizer=None, torch_dtype=torch.float32, use_safetensors=True
    )
    transformer, deviations = stock.transformer, {}
    plain = family.probe(transformer)
    transformer.add_adapter(deepcopy(adapter.config))
    set_peft_model_state_dict(transformer, adapter.weights)
    expected = family.probe(transformer)
    for name in written_files(family.layer_names):
        stock.unload_lora_weights()
        stock.load_lora_weights(folder, weight_name=name, use_safetensors=True)
        difference, effect = family.probe(transformer) - expected, expected - plain
        deviations[name] = float(difference.norm() / effect.norm().clamp(min=1e-12))
        if not deviations[name] <= MAX_DEVIATION:
            raise LoraError(
                f"{folder / name} does not do what the adapter does: it differs by {deviations[name]:.2g} of its "
                f"effect, more than {MAX_DEVIATION}; diffusers or peft may have changed how they read it"
            )
    return deviations
