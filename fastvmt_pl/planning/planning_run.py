"""Plan the runs of a transfer or of a list of them, before any weights are read."""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning import Callback

from fastvmt_pl.backbones.precision import settled
from fastvmt_pl.callbacks import GradientCache
from fastvmt_pl.datamodules import MotionDataModule
from fastvmt_pl.errors import UserError
from fastvmt_pl.joblists.job_list import read_jobs
from fastvmt_pl.method.motion_transfer import MotionTransfer
from fastvmt_pl.planning import Plan, Rates, Workload, calibrate
from fastvmt_pl.planning import plan as plan_run
from fastvmt_pl.planning.planned_share import PlannedShare, Share
from fastvmt_pl.runs.composition import compose
from fastvmt_pl.runs.sample_run import NO_CLIP
from fastvmt_pl.runs.settings import Config, merged, read_config
from fastvmt_pl.runs.transfer_options import TransferOptions, config_of, settings_of

PROMPT = "a giant panda riding a bicycle through a busy street at night, neon lights reflected on the wet asphalt"
"""Represents the jobs' prompts, since only their length matters."""


def shares_of(path: Path, options: TransferOptions) -> tuple[list[Share], int]:
    """Return the jobs of a list by their settings, and the number of entries that cannot run.

    Raises:
        UserError: If none can.
    """
    with tempfile.TemporaryDirectory() as scratch:
        found, refused = read_jobs(path, options, Path(scratch))
    shares: dict[str, Share] = {}
    for job in found:
        key = json.dumps([job.options, job.settings], sort_keys=True, default=str)
        share = shares.setdefault(key, Share(job.options, job.settings, {}))
        share.prompts.setdefault(job.clip, []).append(job.prompt)
    if not shares:
        raise UserError(f"no job of {path} can run; fastvmt transfer --jobs {path} --check says why")
    return list(shares.values()), len(refused)


def plan_shares(
    shares: Sequence[Share], batch_size: int, memory: float | None = None, calibrated: bool = True
) -> Iterator[PlannedShare]:
    """Yield the cost of jobs, by their settings.

    Args:
        shares: The jobs.
        batch_size: Number of prompts of a clip that are optimised together.
        memory: Available GiB, of a GPU that may be on another machine. Default: those of this device.
        calibrated: Measure this device's speed with some seconds of work.

    Raises:
        UserError: If a setting or the model cannot be used, or the device does not exist.
    """
    for share in shares:
        config = merged(read_config(config_of(share.options)), settings_of(share.options) | share.settings)
        trainer = config.get("trainer") or {}
        dtype = _auto_dtype(config, elsewhere=memory is not None)
        if dtype is not None:
            config = merged(config, {"model.backbone.init_args.dtype": dtype})
        config = merged(config, {"data.clips": [NO_CLIP], "data.prompts": [PROMPT]})
        cli = compose(config, check="nothing", with_trainer=False)
        callbacks = cli.config_init["trainer"]["callbacks"] or []
        workload = _workload(cli.model, cli.datamodule, callbacks, list(share.prompts.values()), batch_size)
        place = _device(trainer) if calibrated or memory is None else torch.device("cpu")
        if memory is None and place.type == "cpu":  # which has all transformers in its memory, whichever works
            cli.model.backbone.hold(range(len(cli.model.backbone.family.experts)))
        found = plan_run(cli.model, workload)
        yield PlannedShare(
            share,
            cli.model,
            found,
            _rates(found, cli.model, place) if calibrated else None,
            memory_of(place) if memory is None else round(memory * 2**30),
            dtype,
        )


def _auto_dtype(config: Config, elsewhere: bool) -> str | None:
    """Return the value of ``dtype: auto``, if the config has it; a GPU elsewhere is assumed to have bfloat16."""
    backbone, trainer = (config.get("model") or {}).get("backbone") or {}, config.get("trainer") or {}
    if (backbone.get("init_args") or {}).get("dtype") != "auto":
        return None
    gpu = elsewhere and trainer.get("accelerator") != "cpu"
    return "bfloat16" if gpu else str(settled("auto", _device(trainer)))


def _rates(found: Plan, module: MotionTransfer, place: torch.device) -> Rates:
    module.backbone.to(place)
    rates = calibrate(module.backbone, found.rehearsal.condition, found.workload.latent_shape(module))
    module.backbone.to("cpu")
    return rates


def _workload(
    module: MotionTransfer,
    data: MotionDataModule,
    callbacks: Callback | list[Callback],
    prompts: list[list[str]],
    batch_size: int,
) -> Workload:
    """Return the workload of prompts by clip, all batches as large as the largest."""
    callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
    caches = [each for each in callbacks if isinstance(each, GradientCache)]
    return Workload(
        num_frames=data.num_frames,
        size=data.size,
        motion=data.motion,
        prompts=tuple(max(prompts, key=len)[:batch_size]),
        num_batches=sum(-(-len(of_clip) // batch_size) for of_clip in prompts),
        num_clips=len(prompts) if data.reference_noise == "shared" else sum(map(len, prompts)),
        num_levels=module.num_guided_steps if data.reference_timestep is None else 1,
        extraction_batch=data.extraction_batch,
        num_gradients=num_gradients(module, caches[0] if caches else None),
    )


def num_gradients(module: MotionTransfer, cache: GradientCache | None) -> int:
    """Return the number of gradients that a job computes; with adaptive reuse, the largest possible number."""
    steps, inner = module.num_guided_steps, module.num_inner_steps
    interval = 1 if cache is None or cache.budget is not None else cache.interval
    return -(-steps * inner // interval) if cache is not None and cache.carry_over else steps * -(-inner // interval)


def _device(trainer: Mapping[str, Any]) -> torch.device:
    """Return the device of a trainer with these settings."""
    accelerator, devices = trainer.get("accelerator", "auto"), trainer.get("devices")
    kind = {"auto": None, "gpu": None}.get(accelerator, accelerator)
    best = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    index = devices[0] if isinstance(devices, list) else 0
    if kind not in (None, "cpu", best.type) or (best.type != "cpu" and index >= torch.accelerator.device_count()):
        raise UserError(
            f"this machine has no {kind or best.type}:{index}; give its GiB as --memory, and --no-calibrated"
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
