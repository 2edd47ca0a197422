"""The files of a trained LoRA: written in two namings, read back by a stock pipeline and compared."""

import re
from copy import deepcopy
from pathlib import Path

import torch
from diffusers import WanPipeline, WanTransformer3DModel
from jaxtyping import Float
from peft.utils import set_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor

from fastvmt_pl.files.atomic import written_whole
from fastvmt_pl.lora.adapters import Adapter, Weights
from fastvmt_pl.lora.layer_names import original_name
from fastvmt_pl.lora.sources import DIFFUSERS_FILE

ORIGINAL_FILE = "comfyui_lora.safetensors"
"""In the names of the original code, with alpha tensors: ComfyUI reads no header. A file has one or the other, since
diffusers scales by both if it finds both."""
MAX_DEVIATION = 1e-3
"""Largest difference between a reloaded adapter's effect and that in memory, as a share of it, in full precision."""

Probe = Float[Tensor, "1 channels frames height width"]


class LoraError(RuntimeError):
    """A LoRA that was written is not what it was in memory."""


def write_lora(adapter: Adapter, folder: Path) -> None:
    """Write an adapter as diffusers reads it and as ComfyUI does; call it in one process alone.

    Args:
        adapter: What is to be written.
        folder: Where both files go.
    """
    with written_whole(folder / DIFFUSERS_FILE) as path:
        WanPipeline.save_lora_weights(
            path.parent, transformer_lora_layers=adapter.weights, weight_name=path.name, **adapter.metadata
        )
    with written_whole(folder / ORIGINAL_FILE) as path:
        save_file(to_original_names(adapter.weights, adapter.config.lora_alpha), path)


def to_original_names(weights: Weights, alpha: float) -> Weights:
    """Rename an adapter's weights as the original code names its layers, with a tensor of alpha for each layer.

    Args:
        weights: By their names in diffusers.
        alpha: The adapter's alpha.
    """
    renamed = {}
    for name, weight in weights.items():
        layer, side = re.fullmatch(r"(.*)\.(lora_[AB]\.weight)", name).groups()  # type: ignore[union-attr]
        original = original_name(layer)
        renamed[f"diffusion_model.{original}.{side}"] = weight
        renamed[f"diffusion_model.{original}.alpha"] = torch.tensor(float(alpha))
    return renamed


@torch.no_grad()
def verify_lora(adapter: Adapter, folder: Path, model: Path) -> dict[str, float]:
    """Load each written file into a fresh, stock pipeline, and compare what it does there with the adapter in memory.

    What the adapter in memory does is seen in the same pipeline, into which peft puts it without any file. All of it is
    done in float32: it is the files that are in question, not a precision.

    Args:
        adapter: The adapter that was written.
        folder: Where the files are.
        model: The model's diffusers folder.

    Returns:
        Each file's deviation: the norm of the difference as a share of the norm of the adapter's effect.

    Raises:
        LoraError: If a file does not do what the adapter does.
    """
    pipeline = WanPipeline.from_pretrained(
        model, vae=None, text_encoder=None, tokenizer=None, torch_dtype=torch.float32, use_safetensors=True
    )
    transformer, deviations = pipeline.transformer, {}
    plain = _probe(transformer)
    transformer.add_adapter(deepcopy(adapter.config))
    set_peft_model_state_dict(transformer, adapter.weights)
    expected = _probe(transformer)
    for name in (DIFFUSERS_FILE, ORIGINAL_FILE):
        pipeline.unload_lora_weights()
        pipeline.load_lora_weights(folder, weight_name=name, use_safetensors=True)
        difference, effect = _probe(transformer) - expected, expected - plain
        deviations[name] = float(difference.norm() / effect.norm().clamp(min=1e-12))
        if not deviations[name] <= MAX_DEVIATION:
            raise LoraError(
                f"{folder / name} does not do what the adapter does: it differs by {deviations[name]:.2g} of its "
                f"effect, more than {MAX_DEVIATION}; diffusers or peft may have changed how they read it"
            )
    return deviations


def _probe(transformer: WanTransformer3DModel) -> Probe:
    """Return the transformer's output on fixed inputs."""
    draw = torch.Generator().manual_seed(0)
    config, device, dtype = transformer.config, transformer.device, transformer.dtype
    side = 4 * max(config.patch_size)
    latents = torch.randn(1, config.in_channels, 3, side, side, generator=draw).to(device, dtype)
    text = torch.randn(1, 16, config.text_dim, generator=draw).to(device, dtype)
    times = torch.full((1,), 500.0, device=device)
    output: Tensor = transformer(latents, times, text, return_dict=False)[0]
    return output.float()
