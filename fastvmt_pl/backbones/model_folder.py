"""Find a model's folder and check it before any weights are read."""

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, snapshot_download
from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open

from fastvmt_pl.errors import UserError
from fastvmt_pl.files.file_hash import file_sha256

BUNDLED = {"wan-tiny": Path(__file__).parent / "wan_tiny"}
"""Models that ship with this package."""
CONFIGS = ("*.json", "*.model", "*.txt", "*.md")
WEIGHTS = "*.safetensors"
"""Beside the configs, all that is fetched from a hub: no pickle and no code."""


def resolve_model(model: str | Path, revision: str | None = None, *, weights: bool = True) -> Path:
    """Return the folder of a bundled model, a local diffusers folder, or a hub id (fetched if need be).

    Args:
        model: Name, folder or hub id.
        revision: Branch, tag or commit on the hub.
        weights: Fetch the weights too; without them, settings can be checked before gigabytes are fetched.

    Raises:
        ValueError: If there is no such model.
    """
    if str(model) in BUNDLED:
        return BUNDLED[str(model)]
    folder = Path(model).expanduser()
    if str(model) and folder.is_dir():
        return folder
    known = f"use {', '.join(BUNDLED)}, a local diffusers folder, or a hub id such as Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
    if folder.exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", str(model)):
        raise UserError(f"model {str(model)!r} is not known; {known}")
    if HF_HUB_CACHE.startswith("~"):
        raise UserError(f"this user has no home folder for model {model}; set the environment variable HF_HOME to one")
    wanted = [*CONFIGS, WEIGHTS] if weights else list(CONFIGS)
    try:
        return Path(snapshot_download(str(model), revision=revision, allow_patterns=wanted))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"model {str(model)!r} is no local folder and cannot be had from the hub ({reason}); {known}"
        ) from error


def read_json(path: Path, needed: Iterable[str] = ()) -> dict[str, Any]:
    """Read a JSON file of a model folder.

    Args:
        path: The file.
        needed: Keys that it has to have.

    Raises:
        ValueError: If it is missing, is not a JSON object, or lacks a key.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"there is no {path}; give a whole diffusers folder, as save_pretrained() writes it") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}); is {path.parent} a whole diffusers folder?") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object; is {path.parent} a whole diffusers folder?")
    missing = [key for key in needed if key not in content]
    if missing:
        raise UserError(f"{path} has no {', '.join(missing)}; is it the config of this model?")
    return content


def read_licence(folder: Path) -> str:
    """Return the licence that a model's card names, or ``unknown``."""
    card = folder / "README.md"
    if not card.exists():
        return "unknown"
    return str(ModelCard(card.read_text(), ignore_metadata_errors=True).data.get("license") or "unknown")


def architecture(folder: Path, transformer: str = "transformer") -> dict[str, Any]:
    """Return the settings of a model's transformer, without notes on where it came from."""
    config = read_json(folder / transformer / "config.json")
    return {name: value for name, value in config.items() if not name.startswith("_")}


def check_classes(folder: Path, classes: Mapping[str, str]) -> None:
    """Check that a folder's components are of these classes.

    Args:
        folder: A diffusers folder.
        classes: Class name of each component that has weights.

    Raises:
        ValueError: If one is missing or of another class, naming it.
    """
    index = read_json(folder / "model_index.json")
    for name, class_name in classes.items():
        found = (index.get(name) or [None, None])[1]
        if found is None:
            raise UserError(f"{folder} has no {name}, which is a {class_name}; get the whole model")
        if found != class_name:
            raise UserError(f"{folder} has a {name} of class {found}; only {class_name} is supported")


def check_weights(folder: Path, components: Iterable[str]) -> None:
    """Raise ``UserError`` unless a folder has safetensors weights of these components."""
    for name in components:
        if not (folder / name).is_dir():
            raise UserError(f"{folder} has no {name}; get the whole model")
        if not any((folder / name).glob(WEIGHTS)):
            raise UserError(f"{folder / name} has no .safetensors file; convert the weights with save_pretrained()")


def check_whole(folder: Path, components: Iterable[str]) -> None:
    """Check files of weights by their headers and lengths, such as after a download that was stopped.

    Args:
        folder: A diffusers folder.
        components: Components that have weights.

    Raises:
        UserError: If a file is damaged, or one that a component's index names is missing.
    """
    for name in components:
        for index in (folder / name).glob(f"{WEIGHTS}.index.json"):
            for file in sorted(set(read_json(index, ["weight_map"])["weight_map"].values())):
                if not (folder / name / file).exists():
                    raise UserError(f"{folder / name} has no {file}; get the whole model")
        for path in (folder / name).glob(WEIGHTS):
            try:
                with safe_open(path, "pt"):
                    pass
            except SafetensorError as error:
                raise UserError(
                    f"{path} is damaged ({error}); fetch it again (by git lfs pull, if it came by git clone)"
                ) from error


def hash_components(folder: Path, components: Iterable[str]) -> str:
    """Return a hash of every byte of the weights and configs of components, which tells models apart.

    Args:
        folder: A diffusers folder.
        components: Folders in it.
    """
    digest = hashlib.sha256()
    for name in components:
        for path in sorted(path for pattern in (*CONFIGS, WEIGHTS) for path in (folder / name).glob(pattern)):
            if path.suffix != ".md":
                digest.update(f"{name}/{path.name}:{file_sha256(path)}\n".encode())
    return digest.hexdigest()
