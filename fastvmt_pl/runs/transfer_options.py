"""The options of ``fastvmt transfer``, which are also the columns of a job list, and the configs they stand for."""

from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypedDict

import torch
from lightning import Callback
from lightning.pytorch.utilities import rank_zero_warn

from fastvmt_pl.backbones.precision import PrecisionOption
from fastvmt_pl.callbacks import LastCheckpoint, Preemption, TransferProgress
from fastvmt_pl.files.atomic import naming
from fastvmt_pl.processes.stop_request import StopRequest
from fastvmt_pl.runs.lightning_cli import TransferCLI
from fastvmt_pl.runs.options import (
    as_arguments,
    default_config,
    parse_device,
    parse_loras,
    parse_size,
    read_config,
    run_loggers,
)


class TransferOptions(TypedDict, total=False):
    """How to transfer; what is left out is the config's.

    Args:
        model: wan-tiny (bundled, and taken if neither this nor a config names one), a local diffusers folder, or a hub
            id such as Wan-AI/Wan2.1-T2V-1.3B-Diffusers.
        steps: Denoising steps.
        guided_steps: How many of them, from the first, are guided. By default the config's share of the steps, and at
            least one if the config guides any.
        guidance_scale: How closely to follow the prompt; 1 turns classifier-free guidance off.
        negative_prompt: What to steer away from.
        strength: Where to start: 1 is pure noise, less keeps some of the clip's layout.
        num_frames: Frames to read and to make, 4 n + 1.
        size: Height x width in pixels, such as 480x832, multiples of 16.
        start: Start of the interval of the clip in seconds.
        end: End of the interval in seconds.
        fps: Pictures a second of a clip that is a folder of numbered pictures.
        device: auto, cpu, cuda, cuda:1 or mps.
        dtype: Precision of the model's weights; auto is bfloat16 where the device has instructions for it, or float32.
        lora: Folder of fastvmt distill or a .safetensors file to start from, as PATH or PATH:WEIGHT; a list for
            several.
        baseline: Also make the video without guidance, to compare.
        config: YAML file of settings, all of which the other options override; one that fits the model if left out.
    """

    model: str | None
    steps: int | None
    guided_steps: int | None
    guidance_scale: float | None
    negative_prompt: str | None
    strength: float | None
    num_frames: int | None
    size: str | None
    start: float | None
    end: float | None
    fps: float | None
    device: str | None
    dtype: PrecisionOption | None
    lora: str | list[str] | None
    baseline: bool | None
    config: Path | None


SETTINGS = {
    "model": "model.backbone.init_args.model",
    "steps": "model.num_steps",
    "guided_steps": "model.num_guided_steps",
    "guidance_scale": "model.guidance_scale",
    "negative_prompt": "model.negative_prompt",
    "strength": "model.strength",
    "num_frames": "data.num_frames",
    "start": "data.start",
    "end": "data.end",
    "fps": "data.fps",
    "dtype": "model.backbone.init_args.dtype",
    "baseline": "model.baseline",
}
"""The setting that an option stands for, where it is one as it is."""


def config_of(options: TransferOptions) -> Path:
    """Return the config that options override."""
    return options.get("config") or default_config(options.get("model") or "wan-tiny")


def settings_of(options: TransferOptions) -> dict[str, Any]:
    """Return what options override of the config, by dotted names; ``None`` is the config's own.

    >>> settings_of({"steps": 4, "guided_steps": 2, "size": "48x48", "config": Path("a.yaml")})
    {'model.num_steps': 4, 'model.num_guided_steps': 2, 'data.size': [48, 48]}

    Raises:
        ValueError: If one cannot be read.
    """
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    if not {"model", "config"} & given.keys():
        given["model"] = "wan-tiny"
    if "steps" in given and "guided_steps" not in given:
        share = _guided_share(config_of(options), given["steps"])
        given |= {} if share is None else {"guided_steps": share}
    settings = {SETTINGS[name]: value for name, value in given.items() if name in SETTINGS}
    if "size" in given:
        settings["data.size"] = parse_size(given["size"])
    if "lora" in given:
        settings["model.backbone.init_args.loras"] = parse_loras(given["lora"])
    return settings | (parse_device(given["device"]) if "device" in given else {})


def compose_transfer(
    options: TransferOptions,
    settings: dict[str, Any],
    folder: Path,
    results: Sequence[Callback],
    request: StopRequest,
    progress: bool = True,
    read_clips: bool = True,
) -> TransferCLI:
    """Return the trainer, module and datamodule of a transfer, with its clips read and all settings checked.

    Args:
        options: How to transfer.
        settings: What is to be transferred, and what else differs from the config, by dotted names.
        folder: For checkpoints and logs.
        results: Callbacks that measure the transfer and write its results.
        request: Told when the process is to stop.
        progress: Show how far it is.
        read_clips: Read the clips, and do not only check the settings.

    Raises:
        ValueError: If a setting, the clip or the model cannot be used; the message says what to change.
    """
    callbacks = [
        *results,
        *([TransferProgress()] if progress else []),
        LastCheckpoint(folder / "checkpoints"),
        Preemption(request),
    ]
    trainer = {"callbacks": callbacks, "logger": run_loggers(folder), "enable_model_summary": False}
    cli = TransferCLI(
        args=as_arguments(config_of(options), settings_of(options) | settings),
        trainer_defaults={**trainer, "enable_progress_bar": progress},
        read_clips=read_clips,
        run=False,
        save_config_callback=None,
    )
    cli.model.check_trainer(cli.trainer)
    if not cli.model.num_guided_steps and options.get("guided_steps") != 0 and "model.num_guided_steps" not in settings:
        rank_zero_warn("num_guided_steps is 0: no video will move as its clip does; set --guided-steps")
    return cli


def checkpoint_of(folder: Path) -> Path:
    """Return where a transfer keeps its checkpoint."""
    return folder / "checkpoints" / "last.ckpt"


def fit(cli: TransferCLI, folder: Path) -> None:
    """Run a transfer, from its checkpoint if it has one; a damaged one is put aside.

    Raises:
        UnwritableError: If the folder cannot be written.
    """
    last = checkpoint_of(folder)
    if last.exists() and not _is_readable(last):
        rank_zero_warn(f"{last} is damaged; starting from the beginning")
        last.replace(last.with_suffix(".damaged"))
    with naming(folder):
        cli.trainer.fit(cli.model, cli.datamodule, ckpt_path=last if last.exists() else None, weights_only=True)


def _is_readable(checkpoint: Path) -> bool:
    """Return whether a checkpoint is whole; a machine that lost its power may leave another."""
    try:
        torch.load(checkpoint, map_location="cpu", weights_only=True)
    except (EOFError, UnpicklingError, RuntimeError):
        return False
    return True


def _guided_share(config: Path, num_steps: int) -> int | None:
    """Return as large a share of the steps as the config guides, and one at least if it guides any.

    ``None`` if the config's own numbers are none, which its parser refuses.
    """
    model = read_config(config).get("model") or {}
    guided, steps = model.get("num_guided_steps", 10), model.get("num_steps", 50)
    if not isinstance(guided, int) or not isinstance(steps, int) or steps < 1:
        return None
    return min(num_steps, max(round(guided / steps * num_steps), min(guided, 1)))
