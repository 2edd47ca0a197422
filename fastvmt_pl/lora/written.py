"""The files of a trained LoRA: written in two namings, read back by a stock pipeline and compared."""

import re
from copy import deepcopy
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from diffusers import ModelMixin
from peft.utils import set_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from fastvmt_pl.files.atomic import written_whole
from fastvmt_pl.lora.adapters import Adapter, Weights
from fastvmt_pl.lora.layer_names import LayerNames
from fastvmt_pl.lora.pairs import ALONE_KEY, half_file
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

    @property
    def expert_names(self) -> tuple[str, ...]:
        """What its transformers are called; nothing if there is one."""

    def stock(self, model: Path, expert: int) -> tuple[Any, ModelMixin]:
        """Return a stock pipeline with one of the transformers, in fp32, and that transformer."""

    def loading(self, expert: int) -> dict[str, Any]:
        """Return what tells ``load_lora_weights`` of the stock pipeline which transformer a file is for."""

    def probe(self, transformer: ModelMixin) -> Tensor:
        """Return a transformer's output on fixed inputs, in fp32."""


class LoraError(RuntimeError):
    """A LoRA that was written is not what it was in memory."""


def written_files(names: LayerNames, expert: str = "") -> tuple[str, ...]:
    """Return the files that are written of a LoRA: one for ComfyUI only where it is known to read such names.

    Args:
        names: What the layers are called.
        expert: Which of several transformers it adapts.
    """
    files = (DIFFUSERS_FILE, ORIGINAL_FILE) if names.original else (DIFFUSERS_FILE,)
    return tuple(half_file(file, expert) for file in files)


def write_lora(adapter: Adapter, folder: Path, family: LoraFamily, expert: int = 0, *, alone: bool = False) -> None:
    """Write an adapter as diffusers reads it and, if it can, as ComfyUI does; call it in one process alone.

    Args:
        adapter: The adapter.
        folder: Where the files go.
        family: The family of the adapted model.
        expert: The number of the adapted transformer.
        alone: It is the only adapted one of several, which the headers say.
    """
    names, expert_name = family.layer_names, family.expert_names[expert]
    with written_whole(folder / half_file(DIFFUSERS_FILE, expert_name)) as path:
        family.pipeline.save_lora_weights(
            path.parent, transformer_lora_layers=adapter.weights, weight_name=path.name, **adapter.metadata
        )
        if alone:
            _add_to_header(path, {ALONE_KEY: expert_name})
    if names.original:
        with written_whole(folder / half_file(ORIGINAL_FILE, expert_name)) as path:
            renamed = to_original_names(adapter.weights, adapter.config.lora_alpha, names)
            save_file(renamed, path, {ALONE_KEY: expert_name} if alone else None)


def _add_to_header(path: Path, entries: dict[str, str]) -> None:
    with safe_open(path, "pt") as file:
        header, tensors = file.metadata() or {}, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # no mapping
    save_file(tensors, path, header | entries)


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
def verify_lora(adapter: Adapter, folder: Path, model: Path, family: LoraFamily, expert: int = 0) -> dict[str, float]:
    """Load each written file into a fresh, stock pipeline, and compare what it does there with the adapter in memory.

    What the adapter in memory does is seen in the same pipeline, into which peft puts it without any file. All of it is
    done in float32: it is the files that are in question, not a precision.

    Args:
        adapter: The adapter that was written.
        folder: Where the files are.
        model: The model's diffusers folder.
        family: Its family.
        expert: The number of the adapted transformer, which alone is read.

    Returns:
        Each file's deviation: the norm of the difference as a share of the norm of the adapter's effect.

    Raises:
        LoraError: If a file does not do what the adapter does.
    """
    stock, transformer = family.stock(model, expert)
    deviations = {}
    plain = family.probe(transformer)
    transformer.add_adapter(deepcopy(adapter.config))
    set_peft_model_state_dict(transformer, adapter.weights)
    expected = family.probe(transformer)
    for name in written_files(family.layer_names, family.expert_names[expert]):
        transformer.unload_lora()
        stock.load_lora_weights(folder, weight_name=name, use_safetensors=True, **family.loading(expert))
        difference, effect = family.probe(transformer) - expected, expected - plain
        deviations[name] = float(difference.norm() / effect.norm().clamp(min=1e-12))
        if not deviations[name] <= MAX_DEVIATION:
            raise LoraError(
                f"{folder / name} does not do what the adapter does: it differs by {deviations[name]:.2g} of its "
                f"effect, more than {MAX_DEVIATION}; diffusers or peft may have changed how they read it"
            )
    return deviations
