"""LoRAs: train adapters, write and verify their files, and fuse files into a model."""

from fastvmt_pl.lora.adapters import (
    Adapter,
    add_lora,
    check_numbers,
    lora_weights,
    read_adapter,
    remove_lora,
    without_lora,
)
from fastvmt_pl.lora.fusing import check_loras, fuse_loras
from fastvmt_pl.lora.pairs import HALVES, all_files, find_loras, find_pair, half_file
from fastvmt_pl.lora.sources import DIFFUSERS_FILE, find_lora, lora_files
from fastvmt_pl.lora.switching import SwitchedLoras
from fastvmt_pl.lora.written import ORIGINAL_FILE, LoraError, verify_lora, write_lora, written_files

__all__ = [
    "DIFFUSERS_FILE",
    "HALVES",
    "ORIGINAL_FILE",
    "Adapter",
    "LoraError",
    "SwitchedLoras",
    "add_lora",
    "all_files",
    "check_loras",
    "check_numbers",
    "find_lora",
    "find_loras",
    "find_pair",
    "fuse_loras",
    "half_file",
    "lora_files",
    "lora_weights",
    "read_adapter",
    "remove_lora",
    "verify_lora",
    "without_lora",
    "write_lora",
    "written_files",
]
