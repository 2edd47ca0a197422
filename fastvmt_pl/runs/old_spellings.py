"""Names that earlier versions had, and what they are called now."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

from fastvmt_pl.runs.settings import merged

TRANSFER = {"steps": "num_steps", "guided_steps": "num_guided_steps", "lora": "loras"}
"""Options of a transfer and of a plan, and columns of job lists."""
OPTIONS = {
    "transfer": TRANSFER,
    "plan": TRANSFER,
    "distill": {"epochs": "max_epochs", "teacher_batch": "teacher_batch_size"},
    "sample": {"steps": "num_steps", "lora": "loras", "fps": "output_fps"},
    "encode": {"fps": "rate"},
}
"""Options by command."""
MOVED = {"model.centres": "data.motion.centres"}
"""Settings of a config that are in another group now, by dotted names."""
IN_IDENTITY = {"teacher_batch": "teacher_batch_size", "fps": "output_fps", **MOVED}
"""Settings in an ``identity.json``."""
CLASSES = {
    "backbones.WanBackbone": "backbones.DiffusersBackbone",
    "backbones.wan.WanBackbone": "backbones.DiffusersBackbone",
    **{f"metrics.{name}": f"objectives.{name}" for name in ("MotionFlowLoss", "MotionLoss", "WindowLoss")},
    "motion.MotionSettings": "objectives.AttentionFlow",
    "motion.target.MotionSettings": "objectives.AttentionFlow",
}
"""Classes of this package that YAML may name, which moved by themselves; without the package."""
MODULES = {
    "metrics": "evaluation",
    "metrics.motion": "objectives",
    "metrics.video": "evaluation",
    "motion_transfer": "method.motion_transfer",
    "motion_distillation": "distillation.motion_distillation",
    "optimizers": "method.optimizers",
    "checkpoint_io": "files.checkpoint_io",
    "tracking": "evaluation",
    "tracking.opencv": "evaluation",
    "backbones.protocol": "backbones",
    "callbacks.preemption": "callbacks",
    "datamodules.motion": "datamodules",
    "datamodules.distillation": "datamodules",
    "datamodules.toy_metric": "toy.toy_metric",
}
"""Modules of this package whose classes YAML may name."""
PACKAGE = "fastvmt_pl."


def new_names(given: Mapping[str, Any], names: Mapping[str, str], warn: bool = True) -> dict[str, Any]:
    """Return settings under their present names.

    >>> new_names({"steps": 3, "seed": 0}, TRANSFER, warn=False)
    {'num_steps': 3, 'seed': 0}

    Args:
        given: Settings by name.
        names: Present names by their old ones.
        warn: Name the new spelling of each old one in a warning.
    """
    if warn:
        for name in names.keys() & given.keys():
            warn_of_old(name, names[name])
    return {names.get(name, name): value for name, value in given.items()}


def renewed(settings: Any) -> Any:
    """Return settings as read from YAML, in their present places and with the paths that classes have now."""
    if isinstance(settings, list):
        return [renewed(each) for each in settings]
    if not isinstance(settings, dict):
        return settings
    changed = {name: renewed(value) for name, value in _in_place(settings).items()}
    if isinstance(settings.get("class_path"), str):
        changed["class_path"] = _new_class_path(settings["class_path"])
    return changed


def _in_place(settings: dict[str, Any]) -> dict[str, Any]:
    """Return a config with those settings moved that are in another group now."""
    for old, new in MOVED.items():
        group, name = old.split(".")
        inner = settings.get(group)
        if isinstance(inner, dict) and name in inner:
            warn_of_old(old, new)
            rest = {each: value for each, value in inner.items() if each != name}
            settings = merged({**settings, group: rest}, {new: inner[name]})
    return settings


def _new_class_path(path: str) -> str:
    inner = path.removeprefix(PACKAGE)
    module, _, name = inner.rpartition(".")
    if inner == path or (inner not in CLASSES and module not in MODULES):
        return path
    new = PACKAGE + (CLASSES.get(inner) or f"{MODULES[module]}.{name}")
    warn_of_old(path, new)
    return new


def warn_of_old(old: str, new: str) -> None:
    """Warn, once, of an old spelling."""
    rank_zero_warn(f"{old} is now called {new}", category=FutureWarning)
