import json

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import save_file

CONFIG = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "num_layers": 2,
    "in_channels": 3,
    "out_channels": 3,
    "text_dim": 10,
    "freq_dim": 16,
    "ffn_dim": 32,
    "patch_size": [1, 2, 2],
    "rope_max_seq_len": 16,
}


@pytest.fixture
def transformer():
    """A Wan with random weights, two blocks, and a patch embedding whose kernel is larger than one cell."""
    return WanTransformer3DModel.from_config(CONFIG).requires_grad_(False)


@pytest.fixture
def lora(tmp_path):
    """Writes a LoRA file, with peft's settings in its header if there are any, and returns its path."""

    def write(tensors, settings=None, name="lora.safetensors"):
        header = None if settings is None else {"format": "pt", "lora_adapter_metadata": json.dumps(settings)}
        save_file({key: torch.as_tensor(value).contiguous() for key, value in tensors.items()}, tmp_path / name, header)
        return tmp_path / name

    return write
