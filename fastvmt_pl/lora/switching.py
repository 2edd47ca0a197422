"""LoRAs that are switched on for a part of the sampling, and leave the model's weights as they are."""

from collections.abc import Callable, Iterator, Mapping
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

    Low-rank updates of linear layers are applied to the layers' inputs. Whole differences, which files have for biases
    and norms, and updates of other layers, replace the parameter meanwhile.

    Args:
        transformer: The transformer, whose weights stay to the bit what they are.
        loras: Weight of each file.
        names: Names of the transformer's layers.
        dtype: Precision in which the low-rank updates are computed.

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
        self.low_rank: dict[str, list[list[Tensor]]] = {}
        self.changed: dict[str, Tensor] = {}
        modules, parameters = dict(transformer.named_modules()), dict(transformer.named_parameters())
        shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
        for path, weight in loras.items():
            with opened(path) as file:
                for update in read_lora(path, shapes, names):
                    parameter = parameters[update.parameter]
                    layer, _, which = update.parameter.rpartition(".")
                    if len(update.keys) == 2 and which == "weight" and isinstance(modules[layer], nn.Linear):
                        down, up = (file.get_tensor(key).float() for key in update.keys)
                        pair = [each.to(parameter.device, dtype) for each in (down, up * weight * update.scale)]
                        self.low_rank.setdefault(layer, []).append(pair)
                        continue
                    now = self.changed.get(update.parameter, parameter.float())
                    self.changed[update.parameter] = now + difference(file, update, now) * weight * update.scale

    @contextmanager
    def on(self) -> Iterator[None]:
        """Have the LoRAs on within the block; compiled blocks run uncompiled there."""
        modules, parameters = dict(self.transformer.named_modules()), dict(self.transformer.named_parameters())
        with ExitStack() as stack:
            for layer, pairs in self.low_rank.items():
                stack.callback(modules[layer].register_forward_hook(_adding(pairs)).remove)
            for name, changed in self.changed.items():
                stack.callback(setattr, parameters[name], "data", parameters[name].data)
                parameters[name].data = changed.to(parameters[name])
            for module in modules.values():
                if module._compiled_call_impl is not None:
                    stack.callback(setattr, module, "_compiled_call_impl", module._compiled_call_impl)
                    module._compiled_call_impl = None
            yield


def _adding(pairs: list[list[Tensor]]) -> Callable[..., Tensor]:
    def add(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
        for down, up in pairs:
            output = output + linear(linear(args[0], down.to(args[0])), up.to(args[0])).to(output)
        return output

    return add
