"""Keep a part of a model in the CPU's memory while it is idle."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def at_work(part: nn.Module, device: torch.device, idle_device: torch.device) -> Iterator[None]:
    """Have a part of a model on a device while it works, and back after it, whatever happens.

    Only for work without gradients: a backward pass would not find the weights there.

    Args:
        part: What works.
        device: Where it works.
        idle_device: Where it is before and after; the same device leaves it alone.
    """
    if device == idle_device:
        yield
        return
    part.to(device)
    try:
        yield
    finally:
        part.to(idle_device)
