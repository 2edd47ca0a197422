"""The same maths, executed as the published code of FastVMT (github.com/mayuelala/FastVMT) executes it.

Its forward passes run 20 blocks and the head though block 14 is read. Each block is checkpointed, and its
self-attention once more inside it, so both run again in the backward pass. Pairs of frames follow in a Python loop, and
keys are gathered from a view that repeats them for every place in a window. The reference is measured again at every
guided step. It computes the same values as this package: the published code's faults are not reproduced, nor its
emptying of the CUDA cache at every inner step.
"""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fastvmt_pl.backbones import DiffusersBackbone
from fastvmt_pl.backbones.condition import Condition
from fastvmt_pl.backbones.precision import Precision
from fastvmt_pl.backbones.request import Latents
from fastvmt_pl.objectives import AttentionFlow
from fastvmt_pl.objectives.grid import Grid, num_tiles, token_positions, window_tokens
from fastvmt_pl.objectives.motion_flow import join_heads, logit_scale, window_centres

NUM_BLOCKS_RUN = 20


class PublishedBackbone:
    """Reads queries and keys by hooks on a long, checkpointed forward pass.

    Args:
        folder: A diffusers folder of a Wan.
        dtype: Precision of the transformer.
        device: Where to compute.
        block: Block to read.
    """

    def __init__(self, folder: Path, dtype: Precision, device: str, block: int) -> None:
        self.transformer = (
            DiffusersBackbone(str(folder), dtype=dtype, gradient_checkpointing=True).to(device).transformer
        )
        self.transformer.blocks = self.transformer.blocks[:NUM_BLOCKS_RUN]
        for each in self.transformer.blocks:
            each.attn1.forward = partial(checkpoint, each.attn1.forward, use_reentrant=False)
        self.read: dict[str, Tensor] = {}
        attention = self.transformer.blocks[block].attn1
        self.num_heads: int = attention.heads
        attention.norm_q.register_forward_hook(partial(self._keep, "query"))
        attention.norm_k.register_forward_hook(partial(self._keep, "key"))

    def _keep(self, name: str, module: nn.Module, args: Any, output: Tensor) -> None:
        self.read[name] = output

    def query_key(self, latents: Latents, timestep: float, condition: Condition) -> tuple[Tensor, Tensor]:
        """Return the block's queries and keys, ``[jobs, frames, tokens, heads, dim]``."""
        latents = latents.to(self.transformer.dtype)
        times = torch.full((len(latents),), timestep, device=latents.device)
        self.transformer(latents, times, condition.tensors["text"].to(latents.dtype), return_dict=False)
        rotary = self.transformer.rope(latents)
        split = (rearrange(self.read.pop(n), "b n (h d) -> b n h d", h=self.num_heads) for n in ("query", "key"))
        query, key = (rearrange(apply_rotary(x, rotary), "b (f s) h d -> b f s h d", f=latents.shape[2]) for x in split)
        return query, key


def apply_rotary(tokens: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate neighbouring channels by their token's angles, as Wan's attention does."""
    cos, sin = rotary[0][..., 0::2], rotary[1][..., 1::2]
    even, odd = tokens[..., 0::2], tokens[..., 1::2]
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1).flatten(-2).type_as(tokens)


def flow_and_window_means(query: Tensor, key: Tensor, grid: Grid, centres: Tensor, settings: AttentionFlow) -> tuple:
    """Return one job's windowed flow from one frame to another and the mean key of each window.

    Args:
        query: Joined queries of the first frame, ``[tokens, width]``.
        key: Joined keys of the second, ``[tokens, width]``.
        grid: Rows and columns of tokens, a multiple of the tile's.
        centres: Middle of each tile's window, ``[tiles, 2]``.
        settings: Tile and window; the temperature is 1 and the query holds the logits' scale.
    """
    (down, across), (rows, columns) = num_tiles(grid, settings.tile), settings.tile
    inside, positions = window_tokens(centres, grid, settings.window), token_positions(grid, key.device)
    expanded = repeat(key, "tokens width -> tokens width keys", keys=inside.shape[1])
    keys = expanded.gather(0, repeat(inside, "tiles keys -> tiles width keys", width=key.shape[1]))
    axes = {"nh": down, "nw": across, "th": rows, "tw": columns}
    tiles = rearrange(query, "(nh th nw tw) c -> (nh nw) (th tw) c", **axes)
    attended = (tiles @ keys).float().softmax(-1) @ positions[inside]
    flow = rearrange(attended, "(nh nw) (th tw) xy -> (nh th nw tw) xy", **axes) - positions
    return flow, keys.float().mean(-1)


@dataclass(frozen=True)
class PublishedTarget:
    """The reference's motion.

    Attributes:
        flow: In token cells, ``[1, pairs, tokens, 2]``.
        centres: Middle of each tile's window, ``[1, pairs, tiles, 2]``.
        grid: Rows and columns of tokens.
        settings: How it was read.
    """

    flow: Tensor
    centres: Tensor
    grid: Grid
    settings: AttentionFlow


def looped(query: Tensor, key: Tensor, target: PublishedTarget) -> tuple[Tensor, Tensor]:
    """Return one job's flow, ``[1, pairs, tokens, 2]``, and its window loss, one pair of frames after the other."""
    pairs, scale = target.settings.pairs(query.shape[1]), logit_scale(query, target.settings.temperature)
    queries, keys = join_heads(query)[0] * scale, join_heads(key)[0]
    flows, means = [], {}
    for number, (i, j) in enumerate(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)):
        flow, means[i, j] = flow_and_window_means(
            queries[i], keys[j], target.grid, target.centres[0, number], target.settings
        )
        flows.append(flow)
    distances = [(means[i, j + 1] - means[i, j]).norm(dim=-1).mean() for i, j in means if (i, j + 1) in means]
    return torch.stack(flows)[None], torch.stack(distances).mean()


def loss(query: Tensor, key: Tensor, target: PublishedTarget) -> Tensor:
    """Return five times the motion flow loss and once the window loss of one job."""
    flow, window_loss = looped(query, key, target)
    per_pair = (target.flow - flow).pow(2).sum((-2, -1))
    weight = target.settings.pairs(query.shape[1]).weight.to(flow.device)
    return 5 * (per_pair * weight).mean() + window_loss


@torch.no_grad()
def measure(query: Tensor, key: Tensor, grid: Grid, settings: AttentionFlow) -> PublishedTarget:
    """Return the reference's motion, measured one pair of frames after the other."""
    pairs = settings.pairs(query.shape[1]).to(query.device)
    centres = window_centres(query, key, pairs, grid, tile=settings.tile, temperature=settings.temperature)
    target = PublishedTarget(torch.empty(0, device=query.device), centres, grid, settings)
    return replace(target, flow=looped(query, key, target)[0])
