"""LoRAs that are switched on for a part of the sampling, and leave the model's weights as they are."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin
from torch import Tensor, nn
from torch.nn.functional import linear

from fastvmt_pl.lora.fusing import difference
from fastvmt_pl.lora.layer_names import LayerNames
from fastvmt_pl.lora.reading import read_lora
from fastvmt_pl.lora.sources import opened


class SwitchedLoras:
    """LoRAs of a transformer that are computed beside its linear layers while they are on.

    Updates of layers that are not linear, such as norms, replace the parameter meanwhile.

    Args:
        transformer: The transformer, whose weights stay to the bit what they are.
        loras: Weight of each file.
        names: Names of the transformer's layers.
        dtype: Precision in which the updates are computed.

    Raises:
        UserError: If any part of a LoRA cannot be applied.
    """

    @torch.no_grad()
    def __init__(
        self,
        transformer: ModelMixin,
        loras: Mapping[Path, float],
        names: LayerNames,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.transformer = transformer
        self.beside: dict[str, _Beside] = defaultdict(_Beside)
        self.changed: dict[str, Tensor] = {}
        modules, parameters = dict(transformer.named_modules()), dict(transformer.named_parameters())
        shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
        for path, weight in loras.items():
            with opened(path) as file:
                for update in read_lora(path, shapes, names):
                    parameter, scale = parameters[update.parameter], weight * update.scale
                    layer, _, which = update.parameter.rpartition(".")
                    if not isinstance(modules[layer], nn.Linear):
                        now = self.changed.get(update.parameter, parameter.float())
                        self.changed[update.parameter] = now + difference(file, update, now) * scale
                    elif len(update.keys) == 2:
                        down, up = (file.get_tensor(key).to(parameter.device, dtype, copy=True) for key in update.keys)
                        self.beside[layer].pairs.append((down, up, scale))
                    else:
                        whole = difference(file, update, parameter).mul_(scale).to(dtype)
                        (self.beside[layer].weights if which == "weight" else self.beside[layer].biases).append(whole)

    @contextmanager
    def on(self) -> Iterator[None]:
        """Have the LoRAs on within the block; compiled blocks run uncompiled there."""
        modules, parameters = dict(self.transformer.named_modules()), dict(self.transformer.named_parameters())
        with ExitStack() as stack:
            for layer, beside in self.beside.items():
                stack.callback(modules[layer].register_forward_hook(beside).remove)
            for name, changed in self.changed.items():
                stack.callback(setattr, parameters[name], "data", parameters[name].data)
                parameters[name].data = changed.to(parameters[name])
            for module in modules.values():
                if module._compiled_call_impl is not None:
                    stack.callback(setattr, module, "_compiled_call_impl", module._compiled_call_impl)
                    module._compiled_call_impl = None
            yield


class _Beside:
    """What is added to the output of a linear layer."""

    def __init__(self) -> None:
        self.pairs: list[tuple[Tensor, Tensor, float]] = []
        self.weights: list[Tensor] = []
        self.biases: list[Tensor] = []

    def __call__(self, module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        given = args[0]
        for down, up, scale in self.pairs:
            output = output + scale * linear(linear(given, down.to(given)), up.to(given))
        for whole in self.weights:
            output = output + linear(given, whole.to(given))
        for whole in self.biases:
            output = output + whole.to(given)
        return output
