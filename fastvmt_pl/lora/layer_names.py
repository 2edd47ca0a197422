"""The names of a transformer's layers in diffusers, in the original code, and in kohya's trainers."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class LayerNames:
    """The names of the layers of a family of models.

    Attributes:
        blocks: Attribute of the transformer that holds its blocks.
        adaptable: Pattern of the diffusers names of the linear layers that a LoRA may adapt.
        original: Replacements that give the original code's names, by pattern. Empty if ComfyUI does not read them.
        foreign: Error messages for layers of other models, by pattern.
    """

    blocks: str
    adaptable: str
    original: Mapping[str, str] = field(default_factory=dict)
    foreign: Mapping[str, str] = field(default_factory=dict)

    def original_name(self, layer: str) -> str:
        r"""Return a layer's name in the original code.

        >>> LayerNames("blocks", "", {r"\.to_out\.0": ".o", r"\.attn1\.": ".self_attn."}).original_name(
        ...     "blocks.3.attn1.to_out.0"
        ... )
        'blocks.3.self_attn.o'
        """
        for pattern, original in self.original.items():
            layer = re.sub(pattern, original, layer)
        return layer

    def may_be_adapted(self, layer: str) -> bool:
        """Return whether a LoRA may adapt a linear layer."""
        return re.fullmatch(self.adaptable, layer) is not None

    def known_spellings(self, parameters: Iterable[str]) -> dict[str, str]:
        """Return a model's layers by both of their names in kohya's form, in which all dots are underscores.

        That form is ambiguous, so layers are looked up by it instead of parsed. Modulation tables count as layers.

        Args:
            parameters: Names of the model's parameters in diffusers.
        """
        layers = sorted({re.sub(r"\.(weight|bias)$", "", name) for name in parameters})
        return {kohya_name(spelling): layer for layer in layers for spelling in (layer, self.original_name(layer))}

    def why_unknown(self, layer: str, known: Iterable[str]) -> str:
        """Return why a model does not have a layer.

        Args:
            layer: The layer's name as the file spells it, without a prefix.
            known: Names of the model's layers in diffusers.
        """
        if re.match(r"(lora_te\d*_|(text_encoders?(_\d)?|cond_stage_model)\.)", layer):
            return "belongs to a text encoder, which is not adapted here; use a LoRA of the transformer alone"
        for pattern, reason in self.foreign.items():
            if re.search(pattern, layer):
                return reason
        blocks = {int(name.split(".")[1]) for name in known if name.startswith(f"{self.blocks}.")}
        number = re.match(rf"{self.blocks}[._](\d+)", layer)
        if number is not None and int(number[1]) not in blocks:
            return f"belongs to a block that this model lacks, which has {len(blocks)} blocks; use a LoRA of its size"
        return "belongs to no layer of this model, neither by its name in diffusers nor by that of the original code"


def kohya_name(name: str) -> str:
    """Return a name in the form of kohya's trainers."""
    return name.replace(".", "_")
