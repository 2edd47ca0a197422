"""Count the zeros that fill a prompt up instead of attending to each of them: the same result, for less.

Wan attends to 512 text tokens whatever the prompt, most of them zeros. Equal tokens have equal keys and values, so one
of them whose logit is raised by the logarithm of their number stands for all. On small videos, where 512 tokens are
many beside those of the video, that saves a good part of a forward pass.
"""

from collections.abc import MutableMapping
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

NUM_TEXT_TOKENS = 512
NUM_KEPT = 2
"""Zeros that stay: half precision would round a single one's logit by a percent, and the second takes up the rest."""


_lengths: MutableMapping[Tensor, int] = WeakTensorKeyDictionary()
"""The longest prompt in each tensor of embeddings that is in use."""


def trim_padding(text: Float[Tensor, "jobs 512 text_dim"]) -> Float[Tensor, "jobs kept text_dim"]:
    """Drop the zeros after the longest prompt but two, for a transformer that counts them.

    A tensor's zeros are counted when it first comes, as a GPU has to be waited for.

    Args:
        text: Prompts filled up with zeros to 512 tokens; not to be changed in place.
    """
    if text not in _lengths:
        _lengths[text] = int(text.any(-1).any(0).sum())
    return text[:, : _lengths[text] + NUM_KEPT]


def count_padding(transformer: WanTransformer3DModel) -> None:
    """Let each cross-attention take the last two text tokens for all that are missing from the 512."""
    for block in transformer.blocks:
        block.attn2.register_forward_pre_hook(_weigh_last_tokens)
        block.attn2.set_attention_backend("native")  # whatever the user's default is: most others take no mask


def _weigh_last_tokens(attention: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    """Give a cross-attention its mask; it depends on nothing but the text, so that recomputing a block repeats it."""
    hidden, text, _, rotary = args
    if text.shape[1] == NUM_TEXT_TOKENS:
        return args
    mask = torch.zeros(text.shape[1], dtype=hidden.dtype)
    mask[-NUM_KEPT:] = padding_logits(NUM_TEXT_TOKENS + NUM_KEPT - text.shape[1], hidden.dtype)
    return hidden, text, mask.to(hidden.device, non_blocking=True).view(1, 1, 1, -1), rotary


def padding_logits(count: int, dtype: torch.dtype) -> Tensor:
    """Return two logits whose exponentials add up to a count, in spite of the rounding of their precision.

    >>> padding_logits(500, torch.bfloat16).double().exp().sum().round().item()
    500.0
    """
    total = torch.full((), count, dtype=torch.float64)  # no number of Python's, which would compile for each length
    below = (total.log() * (1 - torch.finfo(dtype).eps)).to(dtype)
    return torch.stack([below, (total - below.double().exp()).log().to(dtype)])
