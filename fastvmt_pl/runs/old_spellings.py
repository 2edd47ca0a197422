"""Names that earlier versions had, and what they are called now."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.utilities import rank_zero_warn

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
IN_IDENTITY = {"teacher_batch": "teacher_batch_size", "fps": "output_fps"}
"""Settings in the ``identity.json`` of a distillation and of a sample."""
LOSSES = ("MotionFlowLoss", "MotionLoss", "WindowLoss")
MODULES = {
    **{f"metrics.{name}": "objectives" for name in LOSSES},
    "metrics": "evaluation",
    "metrics.motion": "objectives",
    "metrics.video": "evaluation",
    "motion": "objectives",
    "motion.target": "objectives",
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
"""Modules of this package whose classes YAML may name, without the package; one class may have moved by itself."""
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


def with_new_classes(settings: Any) -> Any:
    """Return settings as read from YAML, with the paths that classes have now."""
    if isinstance(settings, list):
        return [with_new_classes(each) for each in settings]
    if not isinstance(settings, dict):
        return settings
    changed = {name: with_new_classes(value) for name, value in settings.items()}
    if isinstance(settings.get("class_path"), str):
        changed["class_path"] = _new_class_path(settings["class_path"])
    return changed


def _new_class_path(path: str) -> str:
    inner = path.removeprefix(PACKAGE)
    module, _, name = inner.rpartition(".")
    found = MODULES.get(inner, MODULES.get(module))
    if inner == path or found is None:
        return path
    new = f"{PACKAGE}{found}.{name}"
    warn_of_old(path, new)
    return new


def warn_of_old(old: str, new: str) -> None:
    """Warn, once, of an old spelling."""
    rank_zero_warn(f"{old} is now called {new}", category=FutureWarning)
