"""The LoRAs of a pretrained model: they are found and checked without its weights, and switched on during sampling."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch
from diffusers import ModelMixin

from fastvmt_pl.backbones.families.family import Family
from fastvmt_pl.errors import UserError
from fastvmt_pl.lora import SwitchedLoras, check_loras, find_loras
from fastvmt_pl.lora.reading import read_lora


class SwitchesLoras(ABC):
    """A model of one or two transformers that LoRAs are switched on for, beside those that are fused."""

    family: Family
    offload_blocks: bool
    switched_on: tuple[dict[Path, float], ...]
    switched: dict[int, tuple[str, SwitchedLoras]]

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""

    @abstractmethod
    def expert(self, number: int) -> ModelMixin:
        """Return one of the frozen transformers."""

    def check_loras(self, loras: Mapping[str, float]) -> None:
        """Check LoRAs that are to be switched on, without reading the model's weights.

        Raises:
            UserError: If one is not found, or any part of it cannot be applied.
        """
        paths = {path for of_expert in self.found_loras(loras) for path in of_expert}
        if not paths or not self.offload_blocks:
            return
        shapes, names = self.family.shapes(), self.family.layer_names
        for path in paths:
            for update in read_lora(path, shapes, names):
                if not re.fullmatch(names.adaptable, update.parameter.rpartition(".")[0]):
                    raise UserError(
                        f"LoRA {path} replaces {update.parameter}, which the copy of a waiting block would undo; set "
                        "offload_blocks to false"
                    )

    def found_loras(self, loras: Mapping[str, float]) -> tuple[dict[Path, float], ...]:
        """Return the weight of each LoRA's file, for each expert."""
        found = find_loras(loras, self.family.expert_names)
        if any(found):
            shapes = self.family.shapes()
            for of_expert in found:
                check_loras(shapes, of_expert, self.family.layer_names)
        return found

    @contextmanager
    def adapted(self, loras: Mapping[str, float]) -> Iterator[None]:
        """Have LoRAs on within the block, beside those that are fused."""
        before, self.switched_on = self.switched_on, find_loras(loras, self.family.expert_names)
        try:
            yield
        finally:
            self.switched_on = before

    def with_switched(self, number: int) -> AbstractContextManager[None]:
        """Return the context in which an expert runs with the LoRAs that are on. The last ones are kept in memory."""
        loras = self.switched_on[number]
        if not loras:
            return nullcontext()
        key = str([(path, weight, path.stat().st_mtime_ns, path.stat().st_size) for path, weight in loras.items()])
        if number not in self.switched or self.switched[number][0] != key:
            self.switched.pop(number, None)  # before others take memory
            made = SwitchedLoras(self.expert(number), loras, self.family.layer_names, self.dtype)
            self.switched[number] = key, made
        return self.switched[number][1].on()
