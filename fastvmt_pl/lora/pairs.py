"""LoRAs of models with two experts: a pair of files, whose names say which expert each is for."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from fastvmt_pl.errors import UserError
from fastvmt_pl.lora.sources import DIFFUSERS_FILE, find_lora, opened

HALVES = ("high_noise", "low_noise")
"""Names of the experts."""
LEVEL = re.compile(r"high(?=[_-]?noise)|low(?=[_-]?noise)", re.IGNORECASE)
"""The part of a file's name that says which expert it is for, as in ``LowNoise``."""
ALONE_KEY = "trained_expert"
"""Key in a file's header: the name of the only expert that the LoRA was trained for."""


def half_file(name: str, expert: str) -> str:
    """Return the name of a LoRA's file for an expert.

    >>> half_file("lora.safetensors", "high_noise")
    'lora_high_noise.safetensors'

    Args:
        name: The name of the LoRA's file.
        expert: The expert's name; empty for a model with one transformer.
    """
    return f"{Path(name).stem}_{expert}{Path(name).suffix}" if expert else name


def find_loras(loras: Mapping[str, float], experts: Sequence[str] = ("",)) -> tuple[dict[Path, float], ...]:
    """Return the weight of each file, for each expert. The weights of a file that is given twice add up.

    Args:
        loras: Weight of each LoRA by its folder or file. Either file of a pair stands for both, unless both are given.
        experts: Names of the model's experts; empty if there is only one.

    Raises:
        UserError: If a LoRA or half of a pair is not found, a folder has a pair and the model one expert, or a weight
            is no finite number.
    """
    found: tuple[dict[Path, float], ...] = tuple({} for _ in experts)
    for path, weight in loras.items():
        if not math.isfinite(weight):
            raise UserError(f"the weight of LoRA {path} is {weight}; use a finite number")
        if len(experts) == 1 and _in_folder(Path(path).expanduser()) is not None:
            raise UserError(f"LoRA {path} is a pair of files, and this model has one transformer; give another")
        files = {"": find_lora(path)} if len(experts) == 1 else find_pair(path, loras)
        for expert, of_expert in zip(experts, found, strict=True):
            if expert in files:
                of_expert[files[expert]] = of_expert.get(files[expert], 0.0) + weight
    return found


def find_pair(path: str | Path, given: Iterable[str] = ()) -> dict[str, Path]:
    """Return a LoRA's file for each expert that it was trained for, by the expert's name.

    Args:
        path: One of the files, or their folder.
        given: All LoRAs that are used. A file whose other half is among them stands for itself only.

    Raises:
        UserError: If a file is missing, or its name does not say which expert it is for.
    """
    folder = Path(path).expanduser()
    if folder.is_dir() and _in_folder(folder) is None and not (folder / DIFFUSERS_FILE).is_file():
        wanted = " or ".join(half_file(DIFFUSERS_FILE, half) for half in HALVES)
        raise UserError(f"LoRA {path} is a folder without {wanted}, which a model with two experts needs")
    file = _in_folder(folder) or find_lora(path)
    own, other = _expert_of(file), _other(file)
    if own is None:
        raise UserError(
            f"LoRA {file} is one file, and the model has two experts; name a pair's files NAME_high_noise.safetensors "
            "and NAME_low_noise.safetensors"
        )
    if any(Path(each).expanduser() == other for each in given):
        return {own: file}
    if other.is_file():
        return {own: file, next(half for half in HALVES if half != own): other}
    with opened(file) as content:
        alone = (content.metadata() or {}).get(ALONE_KEY)
    if alone != own:
        raise UserError(f"LoRA {file} is half of a pair, and {other.name} is missing; put that file next to it")
    return {own: file}


def all_files(path: str | Path) -> list[Path]:
    """Return the files of a LoRA, one or a pair.

    Raises:
        UserError: If it has none.
    """
    file = _in_folder(Path(path).expanduser()) or find_lora(path)
    other = _other(file)
    return sorted({file, other}) if other.is_file() else [file]


def _in_folder(folder: Path) -> Path | None:
    """Return the first half of a pair in a folder, unless it also holds a LoRA in one file."""
    if (folder / DIFFUSERS_FILE).is_file():
        return None
    halves = (folder / half_file(DIFFUSERS_FILE, half) for half in HALVES)
    return next((file for file in halves if file.is_file()), None)


def _expert_of(file: Path) -> str | None:
    found = LEVEL.search(file.name)
    return None if found is None else f"{found[0].lower()}_noise"


def _other(file: Path) -> Path:
    """Return the other half of a pair, in the same spelling; for other files, the file itself."""

    def opposite(found: re.Match[str]) -> str:
        word = "low" if found[0].lower() == "high" else "high"
        return word.upper() if found[0].isupper() else word.title() if found[0].istitle() else word

    return file.with_name(LEVEL.sub(opposite, file.name, count=1))
