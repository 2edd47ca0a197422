"""The precision of a model's weights, and the one that is fast on a device."""

import platform
from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_info

Precision = Literal["float32", "bfloat16", "float16"]
Quantization = Literal["fp8", "int8"]
"""How frozen weights are quantised."""
PrecisionOption = Literal["auto", "float32", "bfloat16", "float16"]
"""A precision, or ``auto``: bfloat16 where the device has instructions for it, and float32 everywhere else."""


def settled(option: PrecisionOption, device: torch.device) -> Precision:
    """Return the precision that an option stands for on a device, which must be there.

    ``auto`` is never float16, although GPUs older than Ampere are fast at it: it overflows above 65504, and guidance
    has no loss scaling.
    """
    if option != "auto":
        return option
    return "bfloat16" if has_bfloat16(device) else "float32"


def settle_config(backbone: Any, device: torch.device) -> None:
    """Write the precision into a backbone's settings in the place of ``auto``, so that a run's config says what it is.

    Args:
        backbone: Settings with ``init_args``, as jsonargparse parses them; changed in place.
        device: Where the run computes.
    """
    arguments = backbone.get("init_args") or {}
    if arguments.get("dtype") == "auto":
        arguments["dtype"] = settled("auto", device)
        rank_zero_info(f"dtype auto is {arguments['dtype']} on {device}")


def has_bfloat16(device: torch.device) -> bool:
    """Return whether a device has instructions for bfloat16, and PyTorch uses them.

    A GPU has them from compute capability 8.0 on. An Apple GPU counts as one that has none, as nothing tells which of
    them do. A CPU without them emulates bfloat16, which takes many times as long as float32.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return device.type == "cpu" and _cpu_has_bfloat16()


def _cpu_has_bfloat16() -> bool:
    # oneDNN multiplies the matrices. On ARM it looks for the instructions themselves, on x86 for AVX-512 alone.
    if not torch.backends.mkldnn.is_available() or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    return platform.machine() == "aarch64" or torch.cpu._is_avx512_bf16_supported()
