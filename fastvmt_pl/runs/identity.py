"""What a run is: everything that changes its result, and nothing else."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from fastvmt_pl.backbones.families.finding import find_family
from fastvmt_pl.backbones.model_folder import BUNDLED, hash_components
from fastvmt_pl.clips import ClipError, content_hash
from fastvmt_pl.errors import UserError
from fastvmt_pl.files.file_hash import file_sha256
from fastvmt_pl.lora import all_files, lora_files
from fastvmt_pl.regions import parse_region
from fastvmt_pl.runs.old_spellings import CLASSES, IN_IDENTITY, new_names
from fastvmt_pl.runs.settings import merged

Settings = dict[str, Any]
"""Values by dotted names."""
ROUNDING = {"gradient_checkpointing", "offload", "offload_blocks", "attention_backend", "compile"}
"""Settings of a backbone that change no more than rounding."""
OUTSIDE = {"cache_dir", "extraction_batch", "folder", "keep_motion", "num_workers"}
"""Settings of datamodules that say where and how fast, not what."""
TRAINER = {
    "accumulate_grad_batches",
    "callbacks",
    "fast_dev_run",
    "gradient_clip_algorithm",
    "gradient_clip_val",
    "limit_train_batches",
    "max_epochs",
    "max_steps",
    "max_time",
    "min_epochs",
    "min_steps",
    "overfit_batches",
    "precision",
}
"""The settings of a trainer that change what is computed; the others say where, or how it is shown."""
WATCHING = {
    "Costs",
    "DeviceStatsMonitor",
    "LastCheckpoint",
    "LearningRateMonitor",
    "LoraExport",
    "LoraPreviews",
    "ModelCheckpoint",
    "ModelSummary",
    "Preemption",
    "RichModelSummary",
    "RichProgressBar",
    "RunFolder",
    "ThroughputMonitor",
    "TQDMProgressBar",
    "TransferPreviews",
    "TransferProgress",
}
"""Callbacks that change nothing."""
USUAL_MOTION = "AttentionFlow"
"""The class of ``data.motion`` where the settings name none."""
LATER = {"model.guidance": "optimise", "data.region_of": "subject", "data.background_weight": 1.0}
"""Settings that earlier versions did not have, with the value for what these did."""
NAMED_BY_CLASS = ("fastvmt_pl.", "lightning.", "torch.")
"""Packages that move their classes from one version to the next; a class of theirs is known by its name alone."""
RENAMED = {old.rsplit(".", 1)[-1]: new.rsplit(".", 1)[-1] for old, new in CLASSES.items()}
"""Classes that had other names in earlier versions."""


def identity_of(config: Mapping[str, Any]) -> Settings:
    """Return what changes the result of a run with a LightningCLI's config.

    Files count by their content: clips, images, LoRAs and local models. Device, outputs and caches do not count.

    Args:
        config: Settings in groups, as read from YAML.
    """
    model, data, trainer = (dict(config.get(name) or {}) for name in ("model", "data", "trainer"))
    backbone = model.get("backbone")
    if isinstance(backbone, Mapping) and isinstance(backbone.get("init_args"), Mapping):
        model["backbone"] = {**backbone, "init_args": backbone_identity(backbone["init_args"])}
    if isinstance(model.get("finish"), Mapping):
        finish = model["finish"]
        model["finish"] = _with_loras_content(finish.get("init_args", finish))
    data = {name: value for name, value in data.items() if name not in OUTSIDE}
    motion = data.get("motion")
    if isinstance(motion, Mapping) and _class_name(motion.get("class_path")) == USUAL_MOTION:
        data["motion"] = motion.get("init_args")  # a config need not name the class
    if data.get("clips"):
        data["clips"] = [_clip_content(clip) for clip in _as_list(data["clips"])]
    if data.get("images"):
        data["images"] = [content_of(image) for image in _as_list(data["images"])]
    if isinstance(data.get("region"), str):
        data["region"] = _region_content(data["region"])
    trainer = {name: value for name, value in trainer.items() if name in TRAINER}
    callbacks = [
        each if isinstance(each, Mapping) else {"class_path": each} for each in _as_list(trainer.get("callbacks"))
    ]
    trainer["callbacks"] = [each for each in callbacks if _class_name(each.get("class_path")) not in WATCHING]
    groups = {"seed_everything": config.get("seed_everything"), "model": model, "data": data, "trainer": trainer}
    return flat(groups)


def identity_of_overridden(config: Mapping[str, Any], overrides: Mapping[str, Any]) -> Settings:
    """Return what changes the result of a run with a config that some settings override.

    Defaults of classes are not known here, so a setting of ``None`` or ``False`` differs from one that is not set.

    Args:
        config: Settings in groups, as read from YAML.
        overrides: Settings by dotted names; a text is read as YAML.
    """
    changed = merged(config, {name: _read(each) if isinstance(each, str) else each for name, each in overrides.items()})
    told = {None: "null", False: "false"}
    return {
        name: told[value] if value is None or value is False else value for name, value in identity_of(changed).items()
    }


def backbone_identity(arguments: Mapping[str, Any]) -> Settings:
    """Return what changes the result among a backbone's arguments, models and LoRAs by their content."""
    kept = {name: value for name, value in arguments.items() if name not in ROUNDING}
    if "model" in kept:
        kept["model"] = model_content(str(kept["model"]))
    return _with_loras_content(kept)


def _with_loras_content(settings: Mapping[str, Any]) -> Settings:
    """Return settings with LoRAs by their content."""
    kept = dict(settings)
    if isinstance(kept.get("loras"), Mapping):
        kept["loras"] = sorted([_lora_content(path), weight] for path, weight in kept["loras"].items())
    return kept


def content_of(path: str | Path) -> str:
    """Return the SHA-256 of a file; if it cannot be read, its path."""
    path = Path(path)
    try:
        return f"sha256 {file_sha256(path)}"
    except OSError:
        return f"missing {path.absolute()}"


def _clip_content(path: str | Path) -> str:
    try:
        return f"sha256 {content_hash(path)}"
    except (OSError, ClipError):
        return f"missing {Path(path).absolute()}"


def _region_content(region: str) -> Any:
    """Return what a region is: a box or a word as such, masks by their content."""
    what = region if region == "masks" or not Path(region).exists() else parse_region(region)
    return _clip_content(what) if isinstance(what, Path) else region


def of_earlier_version(identity: Settings) -> Settings:
    """Return an identity that an earlier version may have written, with present names of settings and classes."""
    present = new_names(identity, IN_IDENTITY, warn=False)
    return {
        name: RENAMED.get(value, value) if name.endswith("class_path") else value for name, value in present.items()
    }


def flat(settings: Any, prefix: str = "") -> Settings:
    """Return nested settings by dotted names; lists of groups are numbered.

    >>> flat({"a": {"b": 1, "c": [2, 3]}, "d": [{"e": 4}]})
    {'a.b': 1, 'a.c': [2, 3], 'd.0.e': 4}
    """
    if isinstance(settings, Mapping):
        inner = list(settings.items())
    elif isinstance(settings, Sequence) and any(isinstance(each, Mapping) for each in settings):
        inner = [(str(number), each) for number, each in enumerate(settings)]
    else:
        name = prefix.removesuffix(".")
        return {name: _class_name(settings) if name.endswith("class_path") else settings}
    return {key: value for name, each in inner for key, value in flat(each, f"{prefix}{name}.").items()}


def differences(there: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return which settings differ, each with both values.

    What one side does not know is ``None``, ``False``, empty or in :data:`LATER` there, as what a newer version adds.

    >>> differences({"num_steps": 30, "seed": 1}, {"num_steps": 50, "seed": 1})
    ['num_steps: 30 there, 50 now']

    Args:
        there: Those of a run that was begun.
        now: Those that are wanted.
    """
    names = sorted(there.keys() | now.keys())
    return [
        f"{name}: {_shown(there.get(name))} there, {_shown(now.get(name))} now"
        for name in names
        if (there[name] != now[name] if name in there and name in now else _is_set(name, {**there, **now}[name]))
    ]


def _is_set(name: str, value: Any) -> bool:
    """Return whether a value differs from that of a setting that a version does not know."""
    usual = LATER.get(name.removeprefix("teacher."))
    return not (value is None or value is False or value in ([], {}) or value == usual)


def _read(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _shown(value: Any) -> str:
    text = "unset" if value is None else json.dumps(value, ensure_ascii=False).strip('"')
    text = re.sub(r"\b([0-9a-f]{8})[0-9a-f]{56}\b", r"\1", text)
    return text if len(text) <= 80 else f"{text[:79]}…"


def _class_name(path: Any) -> str:
    name = str(path)
    last = name.rsplit(".", 1)[-1] if name.startswith(NAMED_BY_CLASS) else name
    return RENAMED.get(last, last)


def _as_list(value: Any) -> list[Any]:
    """Return what a setting that may be one thing or several has."""
    return value if isinstance(value, list) else [] if value is None else [value]


def model_content(model: str) -> str:
    """Return the hash of a local model's weights and configs; of one on the hub, its name."""
    folder = BUNDLED.get(model, Path(model).expanduser())
    if not model or not folder.is_dir():
        return model
    try:
        needed = find_family(folder, model).hashed
    except UserError:  # left to the backbone, which says why
        needed = ()
    others = (path.name for path in folder.iterdir() if path.is_dir() and path.name != "scheduler")
    return f"sha256 {hash_components(folder, sorted({*others, *needed}))}"


def _lora_content(path: str) -> str:
    try:
        return " ".join(content_of(each) for file in all_files(path) for each in lora_files(file))
    except UserError:
        return path
