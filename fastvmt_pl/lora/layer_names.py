"""The names of a transformer's layers: in diffusers, in the original code, and as kohya's trainers write both."""

import re
from collections.abc import Iterable

ORIGINAL_NAMES = {
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.time_embedder.linear_2": "time_embedding.2",
    "condition_embedder.text_embedder.linear_1": "text_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    "proj_out": "head.head",
    ".attn1.": ".self_attn.",
    ".attn2.": ".cross_attn.",
    ".to_q": ".q",
    ".to_k": ".k",
    ".to_v": ".v",
    ".to_out.0": ".o",
    ".ffn.net.0.proj": ".ffn.0",
    ".ffn.net.2": ".ffn.2",
    ".norm2": ".norm3",
    ".scale_shift_table": ".modulation",
}
"""Parts of names in diffusers, and what the original code calls them."""


def original_name(layer: str) -> str:
    """Return what the original code calls a layer.

    >>> original_name("blocks.3.attn1.to_out.0")
    'blocks.3.self_attn.o'
    """
    if layer == "scale_shift_table":
        return "head.modulation"
    for name, original in ORIGINAL_NAMES.items():
        layer = layer.replace(name, original)
    return layer


def kohya_name(name: str) -> str:
    """Return a name as kohya's trainers write it."""
    return name.replace(".", "_")


def known_spellings(parameters: Iterable[str]) -> dict[str, str]:
    """Return the layers that a model's parameters belong to, by the flat form of both of their names.

    A table of modulations belongs to no layer and counts as one. Underscores are resolved by looking up names that
    exist, since ``time_embedding_0`` alone does not tell which of them were dots.

    Args:
        parameters: Names in diffusers.
    """
    layers = {re.sub(r"\.(weight|bias)$", "", name) for name in parameters}
    return {kohya_name(spelling): layer for layer in sorted(layers) for spelling in (layer, original_name(layer))}


def why_unknown(layer: str, known: Iterable[str]) -> str:
    """Say what is wrong with a layer that a model does not have.

    Args:
        layer: Its name as the file spells it, without a prefix.
        known: The model's layers by their names in diffusers.
    """
    if re.match(r"(lora_te\d*_|(text_encoders?(_\d)?|cond_stage_model)\.)", layer):
        return "belongs to a text encoder, which is not adapted here; use a LoRA of the transformer alone"
    if layer.startswith("transformer_2."):
        return "belongs to the second expert of Wan 2.2, which this model does not have"
    if re.search(r"k_img|v_img|img_emb|add_[kv]_proj|norm_added_k|image_embedder", layer):
        return "belongs to image-to-video models; use a LoRA that was trained for text to video"
    blocks = {int(name.split(".")[1]) for name in known if name.startswith("blocks.")}
    number = re.match(r"blocks[._](\d+)", layer)
    if number is not None and int(number[1]) not in blocks:
        return f"belongs to a block that this model lacks, which has {len(blocks)} blocks; use a LoRA of its size"
    return "belongs to no layer of this model, neither by its name in diffusers nor by that of the original code"
