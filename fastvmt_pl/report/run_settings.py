"""The settings of finished runs, and which of them differ."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml


def read_settings(folder: Path) -> dict[str, str]:
    """Return a run's settings by their dotted names; empty if it has no ``config.yaml``."""
    path = folder / "config.yaml"
    return flattened(yaml.safe_load(path.read_text(encoding="utf-8"))) if path.exists() else {}


def flattened(config: Any, prefix: str = "") -> dict[str, str]:
    """Return nested settings by dotted names, each as JSON; a class is represented by its name.

    >>> flattened({"a": {"b": 1}, "c": [2, None]})
    {'a.b': '1', 'c': '[2, null]'}
    >>> flattened({"d": [{"class_path": "package.Loss", "init_args": {"weight": 2}}]})
    {'d': 'Loss', 'd.Loss.weight': '2'}
    """
    if isinstance(config, dict) and "class_path" in config:
        config = [config]
    if isinstance(config, list) and config and all(isinstance(one, dict) and "class_path" in one for one in config):
        names = [one["class_path"].rsplit(".", 1)[-1] for one in config]
        parts = [
            flattened(one.get("init_args", {}), f"{prefix}.{name}") for one, name in zip(config, names, strict=True)
        ]
        return {prefix: ", ".join(names), **{name: value for part in parts for name, value in part.items()}}
    if not isinstance(config, dict):
        return {prefix: json.dumps(config, default=str)}
    parts = [flattened(value, f"{prefix}.{name}" if prefix else str(name)) for name, value in config.items()]
    return {name: value for part in parts for name, value in part.items()}


def differing(settings: Sequence[dict[str, str]]) -> list[dict[str, str]]:
    """Return for each run the settings that are not the same in all runs; runs without any are not compared.

    Settings of a single job, and settings that follow from others, are not returned.

    >>> differing([{"a": "1", "b": "2"}, {"a": "1", "b": "3"}])
    [{'b': '2'}, {'b': '3'}]
    >>> differing([{"a": "1"}, {"a": "1"}, {}])
    [{}, {}, {}]
    """
    names = list(dict.fromkeys(name for one in settings for name in one))
    own = (
        "data.clips",
        "data.prompts",
        "data.seed",
        "trainer.logger",
        "trainer.default_root_dir",
        "trainer.max_epochs",
    )
    known = [one for one in settings if one]
    changed = [name for name in names if not name.startswith(own) and len({one.get(name) for one in known}) > 1]
    return [{name: one.get(name, "") for name in changed} for one in settings]
