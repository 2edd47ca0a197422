"""Add LoRAs to a transformer's weights."""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from diffusers import WanTransformer3DModel
from torch import Tensor

from fastvmt_pl.lora.reading import Update, read_lora
from fastvmt_pl.lora.sources import opened, unfit


def check_loras(folder: Path, paths: Iterable[Path]) -> None:
    """Check LoRAs against a model's config, before its weights are fetched or read.

    Args:
        folder: The model's diffusers folder.
        paths: Files of LoRAs.

    Raises:
        UserError: If one of them cannot be applied as a whole.
    """
    with torch.device("meta"):
        transformer = WanTransformer3DModel.from_config(WanTransformer3DModel.load_config(folder / "transformer"))
    shapes = {name: tuple(parameter.shape) for name, parameter in transformer.named_parameters()}
    for path in paths:
        read_lora(path, shapes)


@torch.no_grad()
def fuse_loras(transformer: WanTransformer3DModel, loras: Mapping[Path, float]) -> None:
    """Add LoRAs to a transformer's weights, so that using them costs nothing.

    Changes are added in float32, one parameter after another, so that no second copy of the model is needed. Nothing is
    changed before all files are checked.

    Args:
        transformer: Changed in place.
        loras: Weight of each file.

    Raises:
        UserError: If a LoRA cannot be applied as a whole, or its effect is too large for the transformer's precision.
    """
    parameters = dict(transformer.named_parameters())
    shapes = {name: tuple(parameter.shape) for name, parameter in parameters.items()}
    updates = sorted((update for path in loras for update in read_lora(path, shapes)), key=lambda each: each.parameter)
    with ExitStack() as stack:
        files = {path: stack.enter_context(opened(path)) for path in loras}
        for name, changes in groupby(updates, key=lambda each: each.parameter):
            merged = parameters[name].float()
            for change in changes:
                scale = loras[change.path] * change.scale
                merged = merged + _difference(files[change.path], change, merged) * scale
                if not merged.to(parameters[name].dtype).isfinite().all():
                    raise unfit(change.path, f"{change.keys[0]!r} exceeds the range of {parameters[name].dtype}")
            # Replaced, not written to: loaded weights may be a view of the model's file.
            parameters[name].data = merged.to(parameters[name].dtype)


def _difference(file: Any, update: Update, like: Tensor) -> Tensor:
    """Return an update's difference, not scaled, in the shape and on the device of a parameter."""
    tensors: list[Tensor] = [file.get_tensor(key).to(like.device, torch.float32) for key in update.keys]
    if len(tensors) == 1:
        return tensors[0]
    down, up = (tensor.flatten(1) for tensor in tensors)
    return (up @ down).reshape(like.shape)
