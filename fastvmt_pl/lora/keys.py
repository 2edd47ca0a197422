"""Parse the keys of LoRA files: a prefix, a layer, and the part of the layer's update."""

import re
from typing import Literal, NamedTuple

Part = Literal["down", "up", "up_bias", "alpha", "diff", "diff_b"]

PREFIX = r"base_model\.model\.|(model\.)?diffusion_model\.|transformer\.|lora_unet__?"
"""Prefixes of peft, ComfyUI, diffusers and kohya's trainers; a key may have none."""
ENDINGS: dict[str, Part] = {
    r"\.(lora_A(\.[^.]+)?|lora_down|lora\.down)\.weight": "down",  # peft may put an adapter's name into the key
    r"\.(lora_B(\.[^.]+)?|lora_up|lora\.up)\.weight": "up",
    r"\.lora_B(\.[^.]+)?\.bias": "up_bias",
    r"\.alpha": "alpha",
    r"\.diff(_m)?": "diff",
    r"\.diff_b": "diff_b",
}
OTHER_METHODS = {
    r"\.(dora_scale|lora_magnitude_vector)\b": "DoRA",
    r"\.lokr_": "LoKr",
    r"\.hada_": "LoHa",
    r"\.oft_": "OFT",
    r"\.lora_mid\.": "a LoRA with a Tucker core",
}


class Key(NamedTuple):
    """A parsed key of a LoRA file.

    Attributes:
        layer: The layer's name as the file spells it, without a prefix.
        part: The part of the layer's update that the tensor holds.
    """

    layer: str
    part: Part


def other_method(key: str) -> str | None:
    """Return the method that a key belongs to, if it is not plain LoRA."""
    return next((method for pattern, method in OTHER_METHODS.items() if re.search(pattern, key)), None)


def parse_key(key: str) -> Key | None:
    """Parse a key; return ``None`` if it is not one of a LoRA's.

    >>> parse_key("diffusion_model.blocks.0.self_attn.q.lora_down.weight")
    Key(layer='blocks.0.self_attn.q', part='down')
    """
    for ending, part in ENDINGS.items():
        match = re.fullmatch(rf"({PREFIX})?(?P<layer>.+?){ending}", key)
        if match is not None:
            layer = match["layer"]
            # A modulation's difference may name the block instead of the table in it.
            if key.endswith(".diff_m") and not re.search(r"(modulation|scale_shift_table)$", layer):
                layer += ".modulation"
            return Key(layer, part)
    return None
