"""Write the files of a trained LoRA, and verify them in a stock pipeline."""

import json
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
"""File with the original code's names and with alpha tensors, since ComfyUI ignores the header. The diffusers file has
no alpha tensors, because diffusers would apply alpha twice."""
MAX_DEVIATION = 1e-3
"""Largest difference between the effects of the reloaded adapter and of the one in memory, as a share, in float32."""


@runtime_checkable
class LoraFamily(Protocol):
    """The properties of a family of models that its LoRA files depend on."""

    @property
    def pipeline(self) -> type[Any]:
        """The stock pipeline that reads the files."""

    @property
    def layer_names(self) -> LayerNames:
        """Names of the transformer's layers."""

    @property
    def expert_names(self) -> tuple[str, ...]:
        """Names of its transformers; empty if there is only one."""

    def stock(self, model: Path, expert: int) -> tuple[Any, ModelMixin]:
        """Return a stock pipeline with one of the transformers in float32, and that transformer."""

    def loading(self, expert: int) -> dict[str, Any]:
        """Return the arguments of the pipeline's ``load_lora_weights`` that select a transformer."""

    def probe(self, transformer: ModelMixin) -> Tensor:
        """Return a transformer's output on fixed inputs, in float32."""


class LoraError(RuntimeError):
    """A written LoRA differs from the adapter in memory, or could not be compared with it."""


def written_files(names: LayerNames, expert: str = "") -> tuple[str, ...]:
    """Return the names of a LoRA's files: for diffusers and, if it can read this family, for ComfyUI.

    Args:
        names: Names of the transformer's layers.
        expert: Name of the adapted transformer; empty if there is only one.
    """
    files = (DIFFUSERS_FILE, ORIGINAL_FILE) if names.original else (DIFFUSERS_FILE,)
    return tuple(half_file(file, expert) for file in files)


def write_lora(adapter: Adapter, folder: Path, family: LoraFamily, expert: int = 0, *, alone: bool = False) -> None:
    """Write the files of an adapter. Call it in one process only.

    Args:
        adapter: The adapter.
        folder: Folder for the files.
        family: The family of the adapted model.
        expert: The number of the adapted transformer.
        alone: Whether it is the only adapted one of several transformers; written to the files' headers.
    """
    names, expert_name = family.layer_names, family.expert_names[expert]
    with written_whole(folder / half_file(DIFFUSERS_FILE, expert_name)) as path:
        family.pipeline.save_lora_weights(
            path.parent, transformer_lora_layers=adapter.weights, weight_name=path.name, **adapter.metadata
        )
        if alone:
            _add_to_header(path, {ALONE_KEY: expert_name})
        _sort_header(path)
    if names.original:
        with written_whole(folder / half_file(ORIGINAL_FILE, expert_name)) as path:
            renamed = _original_names(adapter.weights, adapter.config.lora_alpha, names)
            save_file(renamed, path, {ALONE_KEY: expert_name} if alone else None)


def _add_to_header(path: Path, entries: dict[str, str]) -> None:
    with safe_open(path, "pt") as file:
        header, tensors = file.metadata() or {}, {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  # no mapping
    save_file(tensors, path, header | entries)


def _sort_header(path: Path) -> None:
    """Sort the entries that are no tensors, which safetensors writes in any order: equal LoRAs are equal files."""
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header.get("__metadata__", {}).items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(length)
        if len(text) == length:
            file.seek(8)
            file.write(text)


def _original_names(weights: Weights, alpha: float, names: LayerNames) -> Weights:
    """Return an adapter's weights by their names in the original code, with an alpha tensor for each layer."""
    renamed = {}
    for name, weight in weights.items():
        layer, side = re.fullmatch(r"(.*)\.(lora_[AB]\.weight)", name).groups()  # type: ignore[union-attr]
        original = names.original_name(layer)
        renamed[f"diffusion_model.{original}.{side}"] = weight
        renamed[f"diffusion_model.{original}.alpha"] = torch.tensor(float(alpha))
    return renamed


@torch.no_grad()
def verify_lora(adapter: Adapter, folder: Path, model: Path, family: LoraFamily, expert: int = 0) -> dict[str, float]:
    """Load each written file into a stock pipeline, and compare its effect with that of the adapter in memory.

    Both effects are computed with the same transformer, in float32.

    Args:
        adapter: The adapter that was written.
        folder: Folder of the files.
        model: The model's diffusers folder.
        family: The model's family.
        expert: The number of the adapted transformer.

    Returns:
        Each file's deviation: the norm of the difference as a share of the norm of the adapter's effect.

    Raises:
        LoraError: If a file's effect differs from the adapter's.
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
                f"{folder / name} differs from the trained adapter by {deviations[name]:.2g} of its effect, more than "
                f"{MAX_DEVIATION}; diffusers or peft may have changed how they read it"
            )
    return deviations
