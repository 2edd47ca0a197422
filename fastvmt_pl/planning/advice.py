"""Settings to change until a run fits into memory."""

from collections.abc import Iterator
from contextlib import suppress
from copy import copy
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from fastvmt_pl.method.motion_transfer import MotionTransfer
from fastvmt_pl.planning.run_plan import Plan, plan
from fastvmt_pl.planning.workload import Workload


class Change(NamedTuple):
    """A setting to change.

    Attributes:
        setting: Its name and its new value.
        plan: The plan with this change and all earlier ones.
    """

    setting: str
    plan: Plan


def advise(module: MotionTransfer, workload: Workload, planned: Plan, num_bytes: int) -> Iterator[Change]:
    """Change one setting after the other, the cheapest first, until the run fits or no setting is left.

    Settings that do not lower the peak are skipped.

    Args:
        module: The module.
        workload: The shape of the run.
        planned: The plan without changes.
        num_bytes: Available memory in bytes.
    """
    tried: set[str] = set()
    while planned.peak > num_bytes:
        untried = (each for each in _changes(module, workload, planned) if _name(each[0]) not in tried)
        setting, changed_module, changed_workload = next(untried, (None, module, workload))
        if setting is None:
            return
        tried.add(_name(setting))
        changed = plan(changed_module, changed_workload)
        if changed.peak < planned.peak:
            module, workload, planned = changed_module, changed_workload, changed
            yield Change(setting, planned)


def _name(setting: str) -> str:
    return setting.partition(":")[0]


def _changes(
    module: MotionTransfer, workload: Workload, planned: Plan
) -> Iterator[tuple[str, MotionTransfer, Workload]]:
    """Yield changes that may lower the memory of the largest step."""
    largest, set_now, seen = planned.largest, vars(module.backbone), planned.rehearsal
    has_transformer = largest.work != "autoencoder" and largest.reading is not seen.embedding
    if has_transformer and set_now.get("offload") is False:
        yield "offload: true", _with(module, offload=True), workload
    if largest.work == "gradient" and set_now.get("gradient_checkpointing") is False:
        yield "gradient_checkpointing: true", _with(module, gradient_checkpointing=True), workload
    if largest.work == "autoencoder" and set_now.get("vae_tiling") is False:
        yield "vae_tiling: true", _with(module, vae_tiling=True), workload
    if largest.reading is seen.extraction and workload.extraction_batch > 1:
        yield "extraction_batch: 1", module, replace(workload, extraction_batch=1)
    denoising = any(largest.reading is each for each in (seen.denoising, seen.ending, seen.finish))
    if (largest.work == "gradient" or denoising) and len(workload.prompts) > 1:
        batches = workload.num_batches * len(workload.prompts)
        yield "batch size 1", module, replace(workload, prompts=workload.prompts[:1], num_batches=batches)
    if has_transformer and set_now.get("offload_blocks") is False and not set_now["compile"]:
        yield "offload_blocks: true", _with(module, offload_blocks=True), workload
    may_cast = "quantization" in set_now and set_now["quantization"] is None and not set_now["compile"]
    if has_transformer and may_cast:
        yield "quantization: fp8", _with(module, quantization="fp8"), workload
    if getattr(module.backbone, "dtype", None) == torch.float32:
        yield "dtype: bfloat16", _with(module, dtype=torch.bfloat16), workload
    half = (workload.num_frames - 1) // 2 + 1, *(side // 2 for side in workload.size)
    frames, height, width = module.backbone.geometry_within(*half)
    smaller = {
        f"num_frames: {frames}": replace(workload, num_frames=frames),
        f"size: {[height, width]}": replace(workload, size=(height, width)),
    }
    for setting, less in smaller.items():
        with suppress(ValueError):  # the model cannot make videos this small
            less.check(module)
            yield setting, module, less


def _with(module: MotionTransfer, **settings: Any) -> MotionTransfer:
    """Return a copy of a module whose backbone has other settings; no weights are read."""
    module, module.backbone = copy(module), copy(module.backbone)
    for name, value in settings.items():
        setattr(module.backbone, name, value)
    return module
