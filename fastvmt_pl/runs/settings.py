"""A run's settings: a plain dict, as YAML gives it, with the groups model, data and trainer."""

from collections.abc import Mapping
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from fastvmt_pl.errors import UserError

Config = dict[str, Any]
"""Settings in groups."""
GROUPS = ("model", "data", "trainer")
WHOLE = {"loras"}
"""Settings whose value is a mapping that an override replaces, instead of merging into it."""


def read_config(path: Path) -> Config:
    """Return the settings of a YAML file.

    Raises:
        UserError: If it has none.
    """
    try:
        content = deepcopy(_parsed(path.read_text(encoding="utf-8"))) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"config {path} cannot be read ({error}); give a YAML file of settings") from error
    groups = [content.get(name) or {} for name in GROUPS] if isinstance(content, dict) else [None]
    if not all(isinstance(group, dict) for group in groups):
        raise UserError(f"config {path} is no mapping of settings; give a YAML file with model, data and trainer")
    return content


@lru_cache(maxsize=16)
def _parsed(text: str) -> Any:
    """Return what YAML says; the jobs of a list have the same config again and again."""
    return yaml.safe_load(text)


def merged(config: Mapping[str, Any], overrides: Mapping[str, Any]) -> Config:
    """Return a config with some settings overridden; values are taken as they are, ``None`` too.

    A mapping is merged into the mapping that it overrides, unless that names another class. A setting of a class may be
    named without ``init_args``.

    >>> merged({"data": {"motion": {"block": 4, "window": 7}}}, {"data.motion": {"window": 5}, "data.num_frames": 9})
    {'data': {'motion': {'block': 4, 'window': 5}, 'num_frames': 9}}
    >>> adamw = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.1}}
    >>> merged({"optimizer": adamw}, {"optimizer.class_path": "torch.optim.SGD"})
    {'optimizer': {'class_path': 'torch.optim.SGD'}}

    Args:
        config: Settings in groups, which stay as they are.
        overrides: Settings by dotted names.
    """
    result = dict(config)
    for name, value in overrides.items():
        *groups, last = name.split(".")
        nested: Any = {last: value}
        for group in reversed(groups):
            nested = {group: nested}
        result = _merge(result, nested)
    return result


def _merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> Config:
    if "class_path" in changes and changes["class_path"] != base.get("class_path"):
        base = {}
    if "class_path" in base and not {"class_path", "init_args"} & changes.keys():
        changes = {"init_args": changes}
    result = dict(base)
    for name, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(base.get(name), Mapping) and name not in WHOLE
        result[name] = _merge(base[name], value) if both else value
    return result
