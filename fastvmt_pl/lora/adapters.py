"""Add, disable, read and remove the LoRA adapter of a transformer."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from diffusers import ModelMixin
from diffusers.training_utils import _collate_lora_metadata, cast_training_params
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch import Tensor
from torch.distributed.tensor import DTensor

from fastvmt_pl.errors import UserError
from fastvmt_pl.lora.layer_names import LayerNames

Weights = dict[str, Tensor]


class Adapter(NamedTuple):
    """An adapter in memory.

    Attributes:
        weights: Weights by their names in diffusers.
        config: Settings in peft.
        metadata: Settings as diffusers writes them to a file.
    """

    weights: Weights
    config: LoraConfig
    metadata: dict[str, Any]


def read_adapter(transformer: ModelMixin) -> Adapter:
    """Return a transformer's adapter. If its weights are sharded, all processes have to call this."""
    metadata = {
        name: {key: sorted(value) if isinstance(value, set) else value for key, value in of_part.items()}
        for name, of_part in _collate_lora_metadata({"transformer": transformer}).items()
    }
    return Adapter(lora_weights(transformer), transformer.peft_config["default"], metadata)


def add_lora(
    transformer: ModelMixin,
    targets: tuple[str, ...],
    rank: int = 16,
    alpha: float | None = None,
    dropout: float = 0.0,
    *,
    names: LayerNames,
) -> None:
    """Add a trainable adapter, which changes nothing yet, to a frozen transformer.

    Args:
        transformer: The transformer.
        targets: Endings of the names of the linear layers in its blocks that get a LoRA.
        rank: Rank of each update.
        alpha: The update is scaled by ``alpha / rank``; ``None`` is the rank.
        dropout: Dropout probability of the inputs of each update.
        names: Names of the transformer's layers.

    Raises:
        UserError: If a number is out of range, or a target matches no linear layer that a LoRA may adapt.
    """
    check_numbers(rank, alpha, dropout)
    linear = [name for name, module in transformer.named_modules() if isinstance(module, torch.nn.Linear)]
    adaptable = [name for name in linear if names.may_be_adapted(name)]
    chosen = {target: [name for name in adaptable if f".{name}".endswith(f".{target}")] for target in targets}
    missing = [target for target, found in chosen.items() if not found]
    if missing or not targets:
        raise UserError(
            f"no linear layer of the blocks ends in {missing}; use, for example, to_q, to_k, to_v, to_out.0"
        )
    layers = [name for found in chosen.values() for name in found]
    config = LoraConfig(r=rank, lora_dropout=dropout, target_modules=layers)
    config.lora_alpha = float(rank if alpha is None else alpha)  # type: ignore[assignment]  # peft's own says int
    transformer.add_adapter(config)
    cast_training_params(transformer, dtype=torch.float32)  # half precision would round small steps away


def check_numbers(rank: int, alpha: float | None, dropout: float) -> None:
    """Raise ``UserError`` if one of an adapter's numbers is out of range."""
    if rank < 1 or (alpha is not None and alpha <= 0) or not 0 <= dropout < 1:
        raise UserError(
            f"rank is {rank}, alpha {alpha} and dropout {dropout}; use a rank of at least 1, a positive alpha or null, "
            "and a dropout from 0 to below 1"
        )


def remove_lora(transformer: ModelMixin) -> None:
    """Remove a transformer's adapter, if it has one."""
    if getattr(transformer, "peft_config", None):
        transformer.unload_lora()


@contextmanager
def without_lora(transformer: ModelMixin) -> Iterator[None]:
    """Disable a transformer's adapter, if it has one, within the block."""
    if not getattr(transformer, "peft_config", None):
        yield
        return
    transformer.disable_adapters()
    try:
        yield
    finally:
        transformer.enable_adapters()


def lora_weights(transformer: ModelMixin) -> Weights:
    """Return the adapter's weights by their names in diffusers, on the CPU; see :func:`read_adapter`."""
    weights = get_peft_model_state_dict(transformer)
    whole = {name: x.full_tensor() if isinstance(x, DTensor) else x for name, x in weights.items()}
    return {name: x.detach().cpu().contiguous() for name, x in whole.items()}
