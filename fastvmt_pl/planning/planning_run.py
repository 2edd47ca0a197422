"""``fastvmt plan``: what a run will cost, before any weights are read."""

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import torch
from jsonargparse import ArgumentParser, Namespace
from lightning import Callback, Trainer

from fastvmt_pl.backbones.precision import settled
from fastvmt_pl.callbacks import GradientCache
from fastvmt_pl.datamodules import MotionDataModule
from fastvmt_pl.errors import UserError, blaming_settings
from fastvmt_pl.joblists.batches import BATCH_SIZE
from fastvmt_pl.joblists.job_list import read_jobs
from fastvmt_pl.method.motion_transfer import MotionTransfer
from fastvmt_pl.planning import Plan, Workload, advise, calibrate, gib, parts_table, steps_table
from fastvmt_pl.planning import plan as plan_run
from fastvmt_pl.runs.options import as_arguments
from fastvmt_pl.runs.transfer_options import TransferOptions, config_of, settings_of

RESERVE = 0.1
"""Share of a device's memory that tensors should leave to its driver, its kernels and gaps between tensors."""
PROMPT = "a giant panda riding a bicycle through a busy street at night, neon lights reflected on the wet asphalt"
"""Stands for the jobs' prompts, of which only the length counts."""


@dataclass(frozen=True)
class Share:
    """Jobs of a run that have all settings in common.

    Attributes:
        options: Their options.
        settings: What else they override of the config, by dotted names.
        prompts: Their prompts, by clip.
    """

    options: TransferOptions
    settings: dict[str, Any]
    prompts: dict[Path, list[str]]


def plan(
    num_jobs: int = 1,
    batch_size: int | None = None,
    jobs: Path | None = None,
    memory: float | None = None,
    calibrated: bool = True,
    **options: Unpack[TransferOptions],
) -> list[Plan]:
    """Say what a run will cost, whether it fits, and if not, what to change.

    Args:
        num_jobs: Prompts to which the motion of a clip is transferred.
        batch_size: How many of them are optimised side by side; 1 if left out, or 4 of a list, as in transfer.
        jobs: List of jobs, as fastvmt transfer --jobs takes it, in place of num_jobs; jobs with the same settings are
            planned together. Its clips are not opened.
        memory: GiB of memory to fit into, those of this device by default. With a number, dtype auto is planned as
            bfloat16, since the GPU may be elsewhere.
        calibrated: Also estimate the time, by some seconds of work on this device.
        options: How to transfer; see :class:`~fastvmt_pl.runs.transfer_options.TransferOptions`.

    Returns:
        The plan for each kind of settings.

    Raises:
        ValueError: If a setting or the model cannot be used, or the device is not there.
        RuntimeError: If the run does not fit.
    """
    if batch_size is None:
        batch_size = 1 if jobs is None else BATCH_SIZE
    if num_jobs < 1 or batch_size < 1:
        raise UserError(f"num_jobs is {num_jobs} and batch_size {batch_size}; use at least 1")
    one_clip = Share(options, {}, {Path(): [PROMPT] * num_jobs})
    shares = [one_clip] if jobs is None else _shares_of(jobs, options)
    plans, problems = [], []
    for share in shares:
        if jobs is not None:
            count = sum(map(len, share.prompts.values()))
            print(f"{count} jobs on {len(share.prompts)} clips, {_described(share)}\n")
        arguments = as_arguments(config_of(share.options), settings_of(share.options) | share.settings)
        module, data, trainer = _read(arguments, elsewhere=memory is not None)
        workload = _workload(module, data, trainer.callbacks or [], list(share.prompts.values()), batch_size)
        place = _device(trainer) if calibrated or memory is None else torch.device("cpu")
        found = plan_run(module, workload)
        _show(found, module, place if calibrated else None)
        problems += _check_fit(module, workload, found, memory_of(place) if memory is None else round(memory * 2**30))
        plans.append(found)
    if problems:
        raise RuntimeError("; ".join(problems))
    return plans


def _shares_of(path: Path, options: TransferOptions) -> list[Share]:
    """Return the jobs of a list by their settings."""
    with tempfile.TemporaryDirectory() as scratch:
        found, refused = read_jobs(path, options, Path(scratch))
    if refused:
        print(f"{len(refused)} entries are left out; fastvmt transfer --jobs {path} --check says why\n")
    shares: dict[str, Share] = {}
    for job in found:
        key = json.dumps([job.options, job.settings], sort_keys=True, default=str)
        share = shares.setdefault(key, Share(job.options, job.settings, {}))
        share.prompts.setdefault(job.clip, []).append(job.prompt)
    if not shares:
        raise UserError(f"no job of {path} can run; fastvmt transfer --jobs {path} --check says why")
    return list(shares.values())


def _described(share: Share) -> str:
    settings = {**share.options, **share.settings}
    return ", ".join(f"{name} {value}" for name, value in settings.items()) or "as the config says"


def _show(found: Plan, module: MotionTransfer, place: torch.device | None) -> None:
    """Print the tables of a plan, with times by a calibration where one is wanted."""
    rates = None
    if place is not None:
        module.backbone.to(place)
        rates = calibrate(module.backbone, found.rehearsal.condition, found.workload.latent_shape(module))
        module.backbone.to("cpu")
    frames, rows, columns = found.tokens
    print(f"{frames} latent frames of {rows} x {columns} tokens, {frames * rows * columns} tokens a job\n")
    print(f"{parts_table(found)}\n\n{steps_table(found, rates)}\n")


def _read(arguments: list[str], elsewhere: bool) -> tuple[MotionTransfer, Namespace, Namespace]:
    """Return the module, and the settings of the datamodule and the trainer, which need more than there is.

    Args:
        arguments: Of a LightningCLI.
        elsewhere: The run is planned for another machine, whose GPU is taken to have bfloat16.
    """
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(MotionTransfer, "model")
    parser.add_class_arguments(MotionDataModule, "data", skip={"clips", "prompts"}, instantiate=False)
    parser.add_class_arguments(Trainer, "trainer", instantiate=False)
    settings = parser.parse_args(arguments)
    backbone, trainer = settings.model.backbone.init_args, settings.trainer
    if backbone.get("dtype") == "auto":
        gpu = elsewhere and trainer.accelerator != "cpu"
        backbone.dtype = "bfloat16" if gpu else settled("auto", _device(trainer))
        print(f"dtype auto is planned as {backbone.dtype}{', which GPUs have from compute capability 8.0 on' * gpu}\n")
    with blaming_settings():
        made = parser.instantiate_classes(settings)
    return made.model, made.data, made.trainer


def _workload(
    module: MotionTransfer,
    data: Namespace,
    callbacks: Callback | list[Callback],
    prompts: list[list[str]],
    batch_size: int,
) -> Workload:
    """Return the largest batch of the prompts of some clips, and as many as there are batches."""
    callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
    caches = [each for each in callbacks if isinstance(each, GradientCache)]
    return Workload(
        num_frames=data.num_frames,
        size=tuple(data.size),
        motion=data.motion,
        prompts=tuple(max(prompts, key=len)[:batch_size]),
        num_batches=sum(-(-len(of_clip) // batch_size) for of_clip in prompts),
        num_clips=len(prompts) if data.reference_noise == "shared" else sum(map(len, prompts)),
        num_levels=module.num_guided_steps if data.reference_timestep is None else 1,
        extraction_batch=data.extraction_batch,
        num_gradients=num_gradients(module, caches[0] if caches else None),
    )


def num_gradients(module: MotionTransfer, cache: GradientCache | None) -> int:
    """Return how many gradients a job computes, at most where that is decided on the way."""
    steps, inner = module.num_guided_steps, module.num_inner_steps
    interval = 1 if cache is None or cache.budget is not None else cache.interval
    return -(-steps * inner // interval) if cache is not None and cache.carry_over else steps * -(-inner // interval)


def _device(trainer: Namespace) -> torch.device:
    """Return where a trainer with these settings computes."""
    kind = {"auto": None, "gpu": None}.get(trainer.accelerator, trainer.accelerator)
    best = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    index = trainer.devices[0] if isinstance(trainer.devices, list) else 0
    if kind not in (None, "cpu", best.type) or (best.type != "cpu" and index >= torch.accelerator.device_count()):
        raise UserError(
            f"there is no {kind or best.type}:{index} here; give its GiB as --memory, and --calibrated false"
        )
    kind = kind or best.type
    return torch.device(kind) if kind == "cpu" else torch.device(kind, index)


def memory_of(device: torch.device) -> int:
    """Return the bytes of memory of a device."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory())
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _check_fit(module: MotionTransfer, workload: Workload, found: Plan, num_bytes: int) -> list[str]:
    """Print whether a run fits, and otherwise what to change; return what is wrong."""
    room = round((1 - RESERVE) * num_bytes)
    have = f"{gib(room)} of {gib(num_bytes)} GiB (a tenth is left to driver and kernels)"
    if found.peak <= room:
        print(f"it fits: {gib(found.peak)} GiB in {have}\n")
        return []
    print(f"it does not fit: {gib(found.peak)} GiB in {have}; the largest step: {found.largest.name}")
    fits = False
    for change in advise(module, workload, found, room):
        fits = change.plan.peak <= room
        print(f"set {change.setting}: {gib(change.plan.peak)} GiB{', which fits' if fits else ''}", flush=True)
    ending = "the lines above say what to change" if fits else "nor with these changes; use a device with more memory"
    return [f"the run takes {gib(found.peak)} GiB and does not fit; {ending}"]
