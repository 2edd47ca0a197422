"""Fuse LoRAs into a transformer's weights."""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from diffusers import ModelMixin
from torch import Tensor

from fastvmt_pl.lora.layer_names import LayerNames
from fastvmt_pl.lora.reading import Shape, Update, read_lora
from fastvmt_pl.lora.sources import opened, unfit


def check_loras(shapes: Mapping[str, Shape], paths: Iterable[Path], names: LayerNames) -> None:
    """Check LoRAs against the shapes of a model's parameters, before its weights are downloaded or read.

    Args:
        shapes: Shape of each of the transformer's parameters, by its name in diffusers.
        paths: Files of LoRAs.
        names: Names of the transformer's layers.

    Raises:
        UserError: If any part of one of them cannot be applied.
    """
    for path in paths:
        read_lora(path, shapes, names)


@torch.no_grad()
def fuse_loras(transformer: ModelMixin, loras: Mapping[Path, float], names: LayerNames) -> None:
    """Add LoRAs to a transformer's weights, so that they cost nothing at inference.

    All files are checked first. Then the updates are added in float32, parameter by parameter, to save memory.

    Args:
        transformer: Changed in place.
        loras: Weight of each file.
        names: Names of the transformer's layers.

    Raises:
        UserError: If any part of a LoRA cannot be applied, or a weight overflows the transformer's precision.
    """
    parameters = dict(transformer.named_parameters())
    shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    updates = sorted(
        (update for path in loras for update in read_lora(path, shapes, names)), key=lambda each: each.parameter
    )
    with ExitStack() as stack:
        files = {path: stack.enter_context(opened(path)) for path in loras}
        for name, of_parameter in groupby(updates, key=lambda each: each.parameter):
            parameter = parameters[name]
            fused = parameter.to(torch.float32, copy=True)
            for update in of_parameter:
                fused += difference(files[update.path], update, fused).mul_(loras[update.path] * update.scale)
            parameter.data = fused.to(parameter.dtype)  # not in place: loaded weights may be a view of the model's file
            if not parameter.isfinite().all():
                raise unfit(update.path, f"with {update.keys[0]!r} {name} exceeds the range of {parameter.dtype}")


def difference(file: Any, update: Update, like: Tensor) -> Tensor:
    """Return an update's unscaled difference, with the shape and device of a parameter."""
    tensors: list[Tensor] = [file.get_tensor(key).to(like.device, torch.float32, copy=True) for key in update.keys]
    if len(tensors) == 1:
        return tensors[0]
    down, up = (tensor.flatten(1) for tensor in tensors)
    return (up @ down).reshape(like.shape)
