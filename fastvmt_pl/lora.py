"""LoRA adapters of Wan: added, written in the names of diffusers and of the original code, read back and compared."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import torch
from diffusers import WanPipeline, WanTransformer3DModel
from diffusers.training_utils import _collate_lora_metadata, cast_training_params
from jaxtyping import Float
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.tensor import DTensor

from fastvmt_pl.errors import UserError
from fastvmt_pl.files import written_whole

DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
"""What diffusers looks for; its header holds the adapter's settings, alpha among them."""
ORIGINAL_FILE = "comfyui_lora.safetensors"
"""In the names of the original code, with alpha tensors: ComfyUI reads no header. A file has one or the other, since
diffusers scales by both if it finds both."""
MAX_DEVIATION = 1e-3
"""Largest difference between a reloaded adapter's effect and that in memory, as a share of it, in full precision."""

ORIGINAL_NAMES = {
    ".attn1.": ".self_attn.",
    ".attn2.": ".cross_attn.",
    ".to_q": ".q",
    ".to_k": ".k",
    ".to_v": ".v",
    ".to_out.0": ".o",
    ".ffn.net.0.proj": ".ffn.0",
    ".ffn.net.2": ".ffn.2",
}

Weights = dict[str, Tensor]
Probe = Float[Tensor, "1 channels frames height width"]


class LoraError(RuntimeError):
    """A LoRA that was written is not what it was in memory."""


def add_lora(
    transformer: WanTransformer3DModel,
    targets: tuple[str, ...],
    rank: int = 16,
    alpha: float | None = None,
    dropout: float = 0.0,
) -> None:
    """Add an adapter that changes nothing yet; its weights are all that is trainable.

    Args:
        transformer: A frozen transformer.
        targets: Endings of the names of the linear layers in its blocks that get a LoRA.
        rank: Rank of each update.
        alpha: The update is scaled by ``alpha / rank``; ``None`` is the rank.
        dropout: Share of the inputs of each update that is dropped while training.

    Raises:
        ValueError: If a number is out of range or a target is no linear layer that files have a name for.
    """
    check_numbers(rank, alpha, dropout)
    blocks = [name for name, module in transformer.named_modules() if isinstance(module, torch.nn.Linear)]
    chosen = {target: [n for n in blocks if f".{n}".endswith(f".{target}") and _has_name(n)] for target in targets}
    missing = [target for target in targets if not chosen[target]]
    if missing or not targets:
        raise UserError(
            f"no linear layer of the blocks ends in {missing}; use, for example, to_q, to_k, to_v, to_out.0"
        )
    names = [name for found in chosen.values() for name in found]
    config = LoraConfig(r=rank, lora_dropout=dropout, target_modules=names)
    config.lora_alpha = float(rank if alpha is None else alpha)  # type: ignore[assignment]  # peft's own says int
    transformer.add_adapter(config)
    cast_training_params(transformer, dtype=torch.float32)  # half precision would round small steps away


def check_numbers(rank: int, alpha: float | None, dropout: float) -> None:
    """Raise ``ValueError`` if one of an adapter's numbers is out of range."""
    if rank < 1 or (alpha is not None and alpha <= 0) or not 0 <= dropout < 1:
        raise UserError(
            f"rank is {rank}, alpha {alpha} and dropout {dropout}; use a rank of at least 1, a positive alpha or null, "
            "and a dropout from 0 to below 1"
        )


def remove_lora(transformer: WanTransformer3DModel) -> None:
    """Take any adapter off, so that the transformer is as it was."""
    if getattr(transformer, "peft_config", None):
        transformer.unload_lora()


@contextmanager
def without_lora(transformer: WanTransformer3DModel) -> Iterator[None]:
    """Turn an adapter off for a while, if there is one."""
    if not getattr(transformer, "peft_config", None):
        yield
        return
    transformer.disable_adapters()
    try:
        yield
    finally:
        transformer.enable_adapters()


def lora_weights(transformer: WanTransformer3DModel) -> Weights:
    """Return the adapter's weights by their names in diffusers, on the CPU; call it in all processes."""
    weights = get_peft_model_state_dict(transformer)
    whole = {name: x.full_tensor() if isinstance(x, DTensor) else x for name, x in weights.items()}
    return {name: x.detach().cpu().contiguous() for name, x in whole.items()}


def to_original_names(weights: Weights, alpha: float) -> Weights:
    """Rename an adapter's weights as the original code names its layers, with a tensor of alpha for each layer.

    Args:
        weights: By their names in diffusers.
        alpha: The adapter's alpha.
    """
    renamed = {}
    for name, weight in weights.items():
        layer, side = re.fullmatch(r"(.*)\.(lora_[AB]\.weight)", name).groups()  # type: ignore[union-attr]
        original = _original_name(layer)
        renamed[f"{original}.{side}"] = weight
        renamed[f"{original}.alpha"] = torch.tensor(float(alpha))
    return renamed


def _original_name(layer: str) -> str:
    for diffusers_name, original in ORIGINAL_NAMES.items():
        layer = layer.replace(diffusers_name, original)
    return f"diffusion_model.{layer}"


def _has_name(layer: str) -> bool:
    return re.fullmatch(r"blocks\.\d+\.(attn[12]\.to_(q|k|v|out\.0)|ffn\.net\.(0\.proj|2))", layer) is not None


def find_lora(path: str | Path) -> Path:
    """Return the safetensors file of a LoRA, given that or its folder.

    Raises:
        ValueError: If there is none.
    """
    given = Path(path).expanduser()
    file = given / DIFFUSERS_FILE if given.is_dir() else given
    if file.suffix != ".safetensors" or not file.is_file():
        raise UserError(f"LoRA {path} is no .safetensors file and no folder with {DIFFUSERS_FILE}")
    return file


def fuse_loras(transformer: WanTransformer3DModel, loras: Mapping[Path, float]) -> None:
    """Add LoRAs to a transformer's weights, so that using them costs nothing.

    Args:
        transformer: Changed in place.
        loras: Weight of each file, in the names of diffusers or of the original code.

    Raises:
        ValueError: If a LoRA does not fit the transformer.
    """
    if not loras:
        return
    names = []
    for number, path in enumerate(loras):
        names.append(f"lora_{number}")
        source = {"weight_name": path.name, "use_safetensors": True, "local_files_only": True}
        try:
            weights, metadata = WanPipeline.lora_state_dict(path.parent, return_lora_metadata=True, **source)
            WanPipeline.load_lora_into_transformer(weights, transformer, adapter_name=names[-1], metadata=metadata)
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            raise UserError(f"LoRA {path} does not fit this model: {error}") from error
        if names[-1] not in getattr(transformer, "peft_config", {}):  # of which diffusers only warns
            raise UserError(
                f"LoRA {path} has no weights for this model: its first is {next(iter(weights), 'missing')!r}; names "
                "have to be those of diffusers (transformer.blocks) or of the original code (diffusion_model.blocks)"
            )
    transformer.set_adapters(names, list(loras.values()))
    transformer.fuse_lora(adapter_names=names, safe_fusing=True)
    transformer.unload_lora()


class Adapter(NamedTuple):
    """An adapter as it is in memory.

    Attributes:
        weights: By their names in diffusers.
        config: Its settings, as peft keeps them.
        metadata: Its settings, as diffusers writes them.
    """

    weights: Weights
    config: LoraConfig
    metadata: dict[str, Any]


def read_adapter(transformer: WanTransformer3DModel) -> Adapter:
    """Return a transformer's adapter; where several processes share the weights, all have to call."""
    metadata = _collate_lora_metadata({"transformer": transformer})
    return Adapter(lora_weights(transformer), transformer.peft_config["default"], metadata)


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
