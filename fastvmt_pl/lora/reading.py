"""Read a LoRA file as updates of a model's parameters. A file with any key that cannot be applied is refused."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from peft.utils.other import get_pattern_key

from fastvmt_pl.lora.keys import Part, other_method, parse_key
from fastvmt_pl.lora.layer_names import LayerNames, kohya_name
from fastvmt_pl.lora.sources import opened, read_settings, unfit

Shape = tuple[int, ...]
FLOATS = {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"}


class Update(NamedTuple):
    """An update of one parameter.

    Attributes:
        path: The LoRA's file.
        parameter: The parameter's name in diffusers.
        keys: Keys of its tensors: the whole difference, or ``A`` and ``B`` of the difference ``B @ A``.
        scale: Factor of the difference.
    """

    path: Path
    parameter: str
    keys: tuple[str, ...]
    scale: float


class Layer(NamedTuple):
    """The tensors that a file has for one layer.

    Attributes:
        name: The layer's name in diffusers.
        spelling: Its name as the file spells it, without a prefix.
        keys: Key of each part.
    """

    name: str
    spelling: str
    keys: dict[Part, str]


def read_lora(path: Path, shapes: Mapping[str, Shape], names: LayerNames) -> list[Update]:
    """Check a LoRA, and return its updates.

    Args:
        path: The safetensors file.
        shapes: Shape of each of the model's parameters, by its name in diffusers.
        names: Names of the model's layers.

    Raises:
        UserError: If anything in the file cannot be applied; the message names the file and the key.
    """
    with opened(path) as file:
        keys = sorted(file.keys())
        layers = _layers(path, keys, shapes, names)
        by_peft = any(key.startswith("base_model.model.") for key in keys)
        settings = read_settings(path, file.metadata(), needed=by_peft)
        updates = [update for layer in layers for update in _updates(path, file, layer, settings, shapes)]
        for update in updates:
            _check_shape(file, update, shapes[update.parameter])
        for update in updates:
            _check_values(file, update)
    return updates


def _layers(path: Path, keys: list[str], shapes: Mapping[str, Shape], names: LayerNames) -> list[Layer]:
    """Return the file's layers; each key belongs to exactly one of them."""
    if not keys:
        raise unfit(path, "it holds no tensors")
    spellings, layers = names.known_spellings(shapes), dict[str, Layer]()
    for key in keys:
        method, parsed = other_method(key), parse_key(key)
        if method is not None:
            raise unfit(path, f"{key!r} belongs to {method}; use a plain LoRA")
        if parsed is None:
            raise unfit(
                path, f"{key!r} is not a key of a LoRA; keys end in lora_A.weight, lora_B.weight, alpha or diff"
            )
        name = spellings.get(kohya_name(parsed.layer))
        if name is None:
            raise unfit(path, f"{key!r} {names.why_unknown(parsed.layer, spellings.values())}")
        parts = layers.setdefault(name, Layer(name, parsed.layer, {})).keys
        if parsed.part in parts:
            raise unfit(path, f"{parts[parsed.part]!r} and {key!r} are the same part of one layer; remove one of them")
        parts[parsed.part] = key
    return list(layers.values())


def _updates(
    path: Path, file: Any, layer: Layer, settings: dict[str, Any] | None, shapes: Mapping[str, Shape]
) -> list[Update]:
    """Return a layer's updates."""
    keys = layer.keys
    weight = f"{layer.name}.weight" if f"{layer.name}.weight" in shapes else layer.name
    bias = f"{layer.name}.bias"
    if keys.keys() & {"down", "up", "up_bias", "alpha"}:
        _check_pair(path, file, keys)
        scale = _scale(path, file, layer, settings)
        updates = [Update(path, weight, (keys["down"], keys["up"]), scale)]
        updates += [Update(path, bias, (keys["up_bias"],), scale)] if "up_bias" in keys else []
    else:
        updates = [Update(path, weight, (keys["diff"],), 1.0)] if "diff" in keys else []
    updates += [Update(path, bias, (keys["diff_b"],), 1.0)] if "diff_b" in keys else []
    for update in updates:
        if update.parameter not in shapes:
            raise unfit(path, f"{update.keys[0]!r} changes a bias, and the model's {layer.name} has none")
    return updates


def _check_pair(path: Path, file: Any, keys: dict[Part, str]) -> None:
    """Raise ``UserError`` if a tensor of the pair is missing, the ranks differ, or a parameter has two updates."""
    missing = [name for part, name in (("down", "lora_A (lora_down)"), ("up", "lora_B (lora_up)")) if part not in keys]
    if missing:
        raise unfit(path, f"{next(iter(keys.values()))!r} has no {missing[0]} with it; the file is incomplete")
    down, up = (tuple(file.get_slice(keys[part]).get_shape()) for part in ("down", "up"))
    if min(len(down), len(up)) < 2 or down[0] != up[1] or down[0] == 0:
        raise unfit(path, f"{keys['down']!r} has shape {down} and {keys['up']!r} has {up}; they need the same rank")
    changes: tuple[tuple[Part, Part], ...] = (("down", "diff"), ("up_bias", "diff_b"))
    for first, second in changes:
        if first in keys and second in keys:
            raise unfit(path, f"{keys[first]!r} and {keys[second]!r} change the same parameter; remove one of them")


def _scale(path: Path, file: Any, layer: Layer, settings: dict[str, Any] | None) -> float:
    """Return alpha over rank, or 1 if the file has no alpha. An alpha given twice applies once."""
    rank: int = file.get_slice(layer.keys["down"]).get_shape()[0]
    given = None if "alpha" not in layer.keys else _read_alpha(path, file, layer.keys["alpha"])
    if settings is None:
        return 1.0 if given is None else given / rank
    set_rank = _setting(settings, layer, "r", "rank_pattern")
    set_alpha = _setting(settings, layer, "lora_alpha", "alpha_pattern")
    if rank != set_rank:
        raise unfit(path, f"{layer.keys['down']!r} has rank {rank}, and the file's settings say {set_rank}")
    if given is not None and given != set_alpha:
        raise unfit(path, f"{layer.keys['alpha']!r} is {given:g}, and the file's settings say {set_alpha:g}")
    return set_alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def _setting(settings: dict[str, Any], layer: Layer, name: str, pattern: str) -> float:
    """Return a setting of a layer as peft finds it, by either of the layer's names."""
    exceptions = settings.get(pattern) or {}
    matched = (get_pattern_key(list(exceptions), each) for each in (layer.name, layer.spelling))
    return float(next((exceptions[key] for key in matched if key in exceptions), settings[name]))


def _read_alpha(path: Path, file: Any, key: str) -> float:
    tensor = file.get_tensor(key)
    if tensor.numel() != 1 or not math.isfinite(tensor.item()):
        raise unfit(path, f"{key!r} is not a single finite number; its shape is {tuple(tensor.shape)}")
    return float(tensor.item())


def _check_shape(file: Any, update: Update, shape: Shape) -> None:
    """Raise ``UserError`` if an update's tensors do not fit a parameter of this shape."""
    given = [tuple(file.get_slice(key).get_shape()) for key in update.keys]
    needs = f"and the model's {update.parameter} has {shape}; the LoRA was trained for another model"
    if len(given) == 1:
        if given[0] != shape:
            raise unfit(update.path, f"{update.keys[0]!r} has shape {given[0]}, {needs}")
        return
    down, up = given
    if _trimmed(up) != _trimmed((shape[0], up[1])):
        raise unfit(update.path, f"{update.keys[1]!r} has shape {up}, {needs}")
    if _trimmed(down) not in (_trimmed((down[0], *shape[1:])), _trimmed((down[0], math.prod(shape[1:])))):
        raise unfit(update.path, f"{update.keys[0]!r} has shape {down}, {needs}")


def _trimmed(shape: Shape) -> Shape:
    """Return a shape without trailing ones, which trainers add to the weights of convolutions."""
    return _trimmed(shape[:-1]) if shape[-1:] == (1,) else shape


def _check_values(file: Any, update: Update) -> None:
    for key in update.keys:
        kind = file.get_slice(key).get_dtype()
        if kind not in FLOATS:
            raise unfit(update.path, f"{key!r} holds {kind}; use a file of floating-point numbers")
        # In pieces: a matrix of a 14B model with its masks takes 2 GB in float32.
        if not all(piece.float().isfinite().all() for piece in file.get_tensor(key).flatten().split(1 << 24)):
            raise unfit(update.path, f"{key!r} holds values that are not finite; its training failed")
