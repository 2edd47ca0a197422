"""What the commands have in common: options, shipped configs and names."""

import json
import math
import re
from collections.abc import Mapping
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from fastvmt_pl.backbones.families.finding import family_of
from fastvmt_pl.errors import UserError
from fastvmt_pl.files.tables import lines_of, read_text
from fastvmt_pl.lora.sources import BUNDLED

CONFIGS = Path(str(files("fastvmt_pl.configs")))
Loras = str | list[str] | dict[str, float]
"""LoRAs as they are given: ``PATH`` or ``PATH:WEIGHT``, a list of these, or a weight for each path."""


def default_config(model: str) -> Path:
    """Return the shipped config that fits a model.

    Raises:
        ValueError: If there is no such model, it is not supported, or no shipped config fits it.
    """
    family = family_of(model)
    if family.defaults.config is None:
        raise UserError(
            f"no shipped config fits {model}, {family.described}; give one by --config, such as a copy of one of those "
            f"in {CONFIGS}"
        )
    return CONFIGS / family.defaults.config


def default_lora_config(model: str) -> Path:
    """Return the shipped config for training a LoRA of a model.

    Raises:
        ValueError: If there is no such model, it is not supported, or no shipped config fits it.
    """
    default_config(model)
    return CONFIGS / family_of(model).defaults.lora_config


def default_prompts(model: str) -> Path:
    """Return the shipped file of prompts that a model has words for.

    Raises:
        ValueError: If there is no such model, or it is not supported.
    """
    return CONFIGS / family_of(model).defaults.prompts


def read_prompts(path: Path) -> list[str]:
    """Return the prompts of a text file, one a line.

    Raises:
        UserError: If there are none.
    """
    prompts = [line.strip() for line in lines_of(read_text(path)) if line.strip()]
    if not prompts:
        raise UserError(f"prompts {path} is empty; give a text file with a prompt a line")
    return prompts


def run_loggers(folder: Path) -> list[dict[str, Any]]:
    """Return the loggers of a run folder: TensorBoard, and a CSV file for each time that the run is started."""
    place = {"save_dir": str(folder), "name": "logs"}
    return [
        {"class_path": "TensorBoardLogger", "init_args": {**place, "version": ""}},
        {"class_path": "CSVLogger", "init_args": place},
    ]


def parse_size(size: str) -> list[int]:
    """Return height and width.

    >>> parse_size("480x832")
    [480, 832]

    Raises:
        ValueError: If it is written in another way.
    """
    match = re.fullmatch(r"(\d+)x(\d+)", size.lower())
    if match is None:
        raise UserError(f"size is {size!r}; give height x width in pixels, such as 480x832")
    return [int(match[1]), int(match[2])]


def parse_device(device: str) -> dict[str, Any]:
    """Return the trainer's settings for a device.

    >>> parse_device("cuda:1")
    {'trainer.accelerator': 'cuda', 'trainer.devices': [1]}

    Raises:
        ValueError: If it is not known.
    """
    match = re.fullmatch(r"(auto|cpu|cuda|mps)|cuda:(\d+)", device)
    if match is None:
        raise UserError(f"device is {device!r}; use auto, cpu, cuda, cuda:1 or mps")
    return {"trainer.accelerator": match[1] or "cuda", "trainer.devices": 1 if match[2] is None else [int(match[2])]}


def parse_loras(loras: Loras | None) -> dict[str, float]:
    """Return the weight of each LoRA file or folder; the weights of one that is given twice add up.

    Args:
        loras: ``PATH`` or ``PATH:WEIGHT``, or the weight of each path. A path that exists is a path, whatever follows
            its last colon.

    Raises:
        UserError: If there is no such path, or the weight is no finite number.
    """
    if isinstance(loras, Mapping):
        return dict(loras)
    found: dict[str, float] = {}
    for lora in [loras] if isinstance(loras, str) else loras or []:
        path, weight = _parse_lora(lora)
        found[path] = found.get(path, 0.0) + weight
    return found


def _parse_lora(lora: str) -> tuple[str, float]:
    path, _, weight = lora.rpartition(":")
    if lora and _exists(lora):
        return lora, 1.0
    if not path or not _exists(path):
        raise UserError(f"LoRA {lora!r} does not exist; give a folder or a .safetensors file, or PATH:WEIGHT")
    number = float(weight) if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", weight, re.IGNORECASE) else math.nan
    if not math.isfinite(number):
        raise UserError(f"the weight of LoRA {path!r} is {weight!r}; give a number, such as 0.5 or -1e-1")
    return path, number


def _exists(lora: str) -> bool:
    return lora in BUNDLED or Path(lora).expanduser().exists()


def as_words(options: dict[str, Any]) -> list[str]:
    """Return options as words of a command line, to start processes with; ``None`` is none.

    >>> as_words({"num_steps": 3, "size": [48, 48], "device": None, "config": Path("my.yaml")})
    ['--num_steps=3', '--size=[48, 48]', '--config=my.yaml']
    """
    given = {name: value for name, value in options.items() if value is not None}
    written = partial(json.dumps, ensure_ascii=False)  # YAML refuses the halves of an escaped emoji
    return [f"--{name}={value if isinstance(value, str | Path) else written(value)}" for name, value in given.items()]
