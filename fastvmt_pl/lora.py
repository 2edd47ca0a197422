"""LoRA adapters of Wan: added, written in the names of diffusers and of the original code, read back and compared."""

import re
from pathlib import Path

import torch
from diffusers import WanPipeline, WanTransformer3DModel
from diffusers.training_utils import _collate_lora_metadata
from jaxtyping import Float
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor

from fastvmt_pl.files import written_whole

DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
"""What diffusers looks for; its header holds the adapter's settings, alpha among them."""
ORIGINAL_FILE = "comfyui_lora.safetensors"
"""In the names of the original code, with alpha tensors: ComfyUI reads no header. A file has one or the other, since
diffusers scales by both if it finds both."""
MAX_DEVIATION = 0.05
"""Largest difference between a reloaded adapter's effect and that in memory, as a share of it: half precision."""

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
    if rank < 1 or (alpha is not None and alpha <= 0) or not 0 <= dropout < 1:
        raise ValueError(
            f"rank is {rank}, alpha {alpha} and dropout {dropout}; use a rank of at least 1, a positive alpha or null, "
            "and a dropout from 0 to below 1"
        )
    blocks = [name for name, module in transformer.named_modules() if isinstance(module, torch.nn.Linear)]
    chosen = {target: [n for n in blocks if f".{n}".endswith(f".{target}") and _has_name(n)] for target in targets}
    missing = [target for target in targets if not chosen[target]]
    if missing or not targets:
        raise ValueError(
            f"no linear layer of the blocks ends in {missing}; use, for example, to_q, to_k, to_v, to_out.0"
        )
    names = [name for found in chosen.values() for name in found]
    config = LoraConfig(r=rank, lora_dropout=dropout, target_modules=names)
    config.lora_alpha = float(rank if alpha is None else alpha)  # type: ignore[assignment]  # peft's own says int
    transformer.add_adapter(config)


def lora_weights(transformer: WanTransformer3DModel) -> Weights:
    """Return the adapter's weights by their names in diffusers, on the CPU."""
    return {name: x.detach().cpu().contiguous() for name, x in get_peft_model_state_dict(transformer).items()}


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


def write_lora(transformer: WanTransformer3DModel, folder: Path) -> None:
    """Write the adapter as diffusers reads it and as ComfyUI does; call it on one process alone.

    Args:
        transformer: A transformer with an adapter.
        folder: Where both files go.
    """
    weights = lora_weights(transformer)
    with written_whole(folder / DIFFUSERS_FILE) as path:
        WanPipeline.save_lora_weights(
            path.parent,
            transformer_lora_layers=weights,
            weight_name=path.name,
            **_collate_lora_metadata({"transformer": transformer}),
        )
    with written_whole(folder / ORIGINAL_FILE) as path:
        save_file(to_original_names(weights, transformer.peft_config["default"].lora_alpha), path)


@torch.no_grad()
def verify_lora(transformer: WanTransformer3DModel, folder: Path, model: Path) -> dict[str, float]:
    """Load each written file into a fresh, stock pipeline, and compare what it does there with the adapter in memory.

    Args:
        transformer: The transformer with the adapter that was written.
        folder: Where the files are.
        model: The model's diffusers folder.

    Returns:
        Each file's deviation: the norm of the difference as a share of the norm of the adapter's effect.

    Raises:
        LoraError: If a file does not do what the adapter does.
    """
    was_training = transformer.training
    transformer.eval()
    expected = _probe(transformer)
    transformer.disable_adapters()
    effect = expected - _probe(transformer)
    transformer.enable_adapters()
    transformer.train(was_training)
    deviations = {}
    for name in (DIFFUSERS_FILE, ORIGINAL_FILE):
        fresh = WanPipeline.from_pretrained(
            model, vae=None, text_encoder=None, tokenizer=None, torch_dtype=transformer.dtype, use_safetensors=True
        ).to(transformer.device)
        fresh.load_lora_weights(folder, weight_name=name, use_safetensors=True)
        deviations[name] = float((_probe(fresh.transformer) - expected).norm() / effect.norm().clamp(min=1e-12))
        if not deviations[name] <= MAX_DEVIATION:
            raise LoraError(
                f"{folder / name} does not do what the adapter does: it differs by {deviations[name]:.2g} of its "
                f"effect, more than {MAX_DEVIATION}; diffusers or peft may have changed how they read it"
            )
    return deviations


def _probe(transformer: WanTransformer3DModel) -> Float[Tensor, "1 channels 3 height width"]:
    """Return the transformer's output on fixed inputs."""
    draw = torch.Generator().manual_seed(0)
    config, device, dtype = transformer.config, transformer.device, transformer.dtype
    side = 4 * max(config.patch_size)
    latents = torch.randn(1, config.in_channels, 3, side, side, generator=draw).to(device, dtype)
    text = torch.randn(1, 16, config.text_dim, generator=draw).to(device, dtype)
    times = torch.full((1,), 500.0, device=device)
    output: Tensor = transformer(latents, times, text, return_dict=False)[0]
    return output.float()
