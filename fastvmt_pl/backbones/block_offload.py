"""Keep a transformer's last blocks in the CPU's memory, and each on the device while it runs."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from diffusers import ModelMixin
from diffusers.hooks import HookRegistry, apply_group_offloading
from torch import nn

CPU = torch.device("cpu")
HOOK = "group_offloading"
"""Diffusers' name of what brings a block to the device and back."""


def spread(transformer: ModelMixin, blocks: Sequence[nn.Module], device: torch.device, num_kept: int) -> None:
    """Put a transformer on a device, but for its last blocks, which wait in the CPU's memory for their turn.

    On a GPU, a block is copied while the block before it runs. Nothing may be differentiated through a waiting block.

    Args:
        transformer: The transformer.
        blocks: Its blocks, in the order in which they run.
        device: Where it computes.
        num_kept: How many of the first blocks stay on the device.
    """
    gather(blocks)
    waiting = nn.Module()
    waiting.blocks = nn.ModuleList(blocks[num_kept:]).to(CPU)
    apart = set(waiting.modules())
    for module in transformer.modules():
        if module not in apart:
            module._apply(lambda tensor: tensor.to(device), recurse=False)
    if not waiting.blocks:
        return
    with_streams = device.type == "cuda"
    apply_group_offloading(waiting, device, CPU, "block_level", num_blocks_per_group=1, use_stream=with_streams)
    if with_streams:  # as diffusers does once it has seen the order of the blocks
        for first, second in pairwise(_registry(block).get_hook(HOOK) for block in waiting.blocks):
            first.next_group, second.group.onload_self = second.group, False


def gather(blocks: Sequence[nn.Module]) -> None:
    """Let no block wait any more; where each is now is left as it is."""
    for block in blocks:
        if _registry(block).get_hook(HOOK) is not None:
            _registry(block).remove_hook(HOOK)


def _registry(block: nn.Module) -> HookRegistry:
    return HookRegistry.check_if_exists_or_initialize(block)
