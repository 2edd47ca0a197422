"""Stop a diffusers transformer as soon as one block's queries and keys are there."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanAttention, WanAttnProcessor
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Rotary = tuple[Float[Tensor, "1 all_tokens 1 dim"], Float[Tensor, "1 all_tokens 1 dim"]]


class QueryKeyReached(Exception):
    """Carries queries and keys out of a forward pass that needs nothing else."""

    def __init__(self, query: Tensor, key: Tensor, rotary: Rotary) -> None:
        super().__init__()
        self.query, self.key, self.rotary = query, key, rotary


class StopAtQueryKey(WanAttnProcessor):  # type: ignore[misc]  # diffusers is untyped
    """An attention processor that projects queries and keys, and ends the forward pass there."""

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: Rotary | None = None,
    ) -> Tensor:
        """Raise :class:`QueryKeyReached`."""
        query, key = attn.norm_q(attn.to_q(hidden_states)), attn.norm_k(attn.to_k(hidden_states))
        assert rotary_emb is not None  # self-attention always has one
        query, key = (rearrange(x, "b n (h d) -> b n h d", h=attn.heads) for x in (query, key))
        raise QueryKeyReached(query, key, rotary_emb)


@contextmanager
def stopping_at(transformer: WanTransformer3DModel, block: int) -> Iterator[None]:
    """Let the transformer's forward pass end with :class:`QueryKeyReached` in a block.

    That block itself is not checkpointed when the others are: a second forward pass through it could not end. Nor does
    its compiled code run, which would be compiled again for a pass that ends in it.
    """
    last = transformer.blocks[block]
    processor, compiled = last.attn1.processor, last._compiled_call_impl
    recompute = transformer._gradient_checkpointing_func
    last.attn1.set_processor(StopAtQueryKey())
    last._compiled_call_impl = None
    if transformer.gradient_checkpointing:
        transformer._gradient_checkpointing_func = _checkpoint_all_but(last)
    try:
        yield
    finally:
        last.attn1.set_processor(processor)
        last._compiled_call_impl = compiled
        transformer._gradient_checkpointing_func = recompute


def _checkpoint_all_but(last: torch.nn.Module) -> Callable[..., Any]:
    def run(module: torch.nn.Module, *args: Any) -> Any:
        return module(*args) if module is last else checkpoint(module, *args, use_reentrant=False)

    return run


def apply_rotary(
    tokens: Float[Tensor, "jobs all_tokens heads dim"], rotary: Rotary
) -> Float[Tensor, "jobs all_tokens heads dim"]:
    """Rotate neighbouring channels by their token's angles, as Wan's attention does."""
    cos, sin = rotary[0][..., 0::2], rotary[1][..., 1::2]
    even, odd = tokens[..., 0::2], tokens[..., 1::2]
    rotated = torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1)
    return rotated.flatten(-2).type_as(tokens)
