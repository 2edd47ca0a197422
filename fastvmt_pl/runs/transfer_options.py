"""The options of ``fastvmt transfer``, which are also the columns of a job list, and the configs they stand for."""

from argparse import ArgumentError
from collections.abc import Mapping, Sequence
from functools import cache
from math import inf
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypedDict, Unpack, cast

import torch
from jsonargparse import ArgumentParser
from lightning import Callback
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.utilities import rank_zero_warn

from fastvmt_pl.backbones.precision import PrecisionOption, Quantization
from fastvmt_pl.backbones.step_cache import StepCacheMethod
from fastvmt_pl.callbacks import LastCheckpoint, Preemption, TransferProgress
from fastvmt_pl.errors import UserError, one_line
from fastvmt_pl.files.atomic import naming
from fastvmt_pl.method.motion_transfer import Guidance
from fastvmt_pl.processes.stop_request import StopRequest
from fastvmt_pl.regions import RegionOf
from fastvmt_pl.runs.composition import compose
from fastvmt_pl.runs.lightning_cli import DistillCLI, TransferCLI
from fastvmt_pl.runs.old_spellings import TRANSFER, new_names
from fastvmt_pl.runs.options import Loras, default_config, parse_device, parse_loras, parse_size, run_loggers
from fastvmt_pl.runs.settings import Config, merged, read_config


class Options(TypedDict, total=False):
    """What :class:`TransferOptions` has but for the model, the config, the image, the region and the place."""

    region_of: RegionOf | None
    motion_strength: float | None
    num_steps: int | None
    num_guided_steps: int | None
    guidance: Guidance | None
    finish_loras: Loras | None
    finish_steps: int | None
    finish_guidance_scale: float | None
    finish_shift: float | None
    step_cache: StepCacheMethod | None
    step_cache_threshold: float | None
    guidance_scale: float | None
    low_noise_guidance_scale: float | None
    negative_prompt: str | None
    strength: float | None
    num_frames: int | None
    size: str | None
    start: float | None
    end: float | None
    fps: float | None
    output_fps: float | None
    device: str | None
    dtype: PrecisionOption | None
    quantization: Quantization | None
    loras: Loras | None
    baseline: bool | None


class TransferOptions(Options, total=False):
    """How to transfer. Default: what the config says.

    Args:
        model: wan-tiny (bundled; the default without a config), a local diffusers folder, or a hub id such as
            Wan-AI/Wan2.1-T2V-1.3B-Diffusers.
        image: Picture file that the video begins with, cropped to the video's size, for models that take one.
        region: The part of the clip whose motion is wanted: a box x0,y0,x1,y1 in pixels of its first frame or a mask
            picture, which are followed; a mask video or folder; or auto for all that moves. Default: all motion.
        region_of: subject takes what is in the region and the camera's motion around it, background the camera's alone,
            which needs no region.
        place: Where the region's motion is in the new video: the subject's box x0,y0,x1,y1 in pixels of the image (of
            the new video if there is none); scale,dx,dy; auto, which finds the image's subject; or same. Default: auto
            with an image, otherwise same.
        motion_strength: How closely to follow the motion: a factor on the config's num_guided_steps. 0 is the video
            without guidance, 1 the config's own, more is closer and takes longer.
        num_steps: Denoising steps.
        num_guided_steps: How many of them, from the first, are guided. Default: the config's share of num_steps, and
            at least one if the config guides any.
        guidance: optimise takes several gradients before each guided step; fused takes the one of the step's own
            forward pass, which costs far less.
        finish_loras: Step-distilled LoRA that takes the steps after the guided ones, as PATH or PATH:WEIGHT; a list for
            several. The guided steps run without it.
        finish_steps: Denoising steps with the finish LoRA. Default: 4.
        finish_guidance_scale: How closely these follow the prompt. Default: 1, without classifier-free guidance.
        finish_shift: Shift of their noise levels, best that of the finish LoRA. Default: the config's shift.
        step_cache: first_block or sea leaves most of the transformer out in steps that are not guided and would change
            little; mag does so by a model's own ratios, which the config has.
        step_cache_threshold: The change up to which it does so; more is faster and less exact.
        guidance_scale: How closely to follow the prompt; 1 turns classifier-free guidance off.
        low_noise_guidance_scale: The same for low noise, for models that have a transformer of its own for that.
        negative_prompt: What to steer away from.
        strength: Where to start: 1 is pure noise, less keeps some of the clip's layout.
        num_frames: Frames to read and to make; which numbers are possible is the model's rule.
        size: Height x width in pixels, such as 480x832; which are possible is the model's rule.
        start: Start of the interval of the clip in seconds.
        end: End of the interval in seconds.
        fps: Pictures a second of a clip that is a folder of numbered pictures.
        output_fps: Frames a second of the new video. Default: those of the frames that are read of the clip, so that
            the motion is as fast as there.
        device: auto, cpu, cuda, cuda:1 or mps.
        dtype: Precision of the model's weights; auto is bfloat16 where the device has instructions for it, or float32.
        quantization: fp8 or int8 (more exact; needs the extra int8) keeps the model's weights in 8 bits, which halves
            their memory.
        loras: Folder of fastvmt distill or a .safetensors file to start from, as PATH or PATH:WEIGHT; a list for
            several.
        baseline: Also make the video without guidance, to compare.
        config: YAML file of settings, which the other options override. Default: a shipped one that fits the model.
    """

    model: str | None
    image: Path | None
    region: str | None
    place: str | None
    config: Path | None


SETTINGS = {
    "model": "model.backbone.init_args.model",
    "num_steps": "model.num_steps",
    "num_guided_steps": "model.num_guided_steps",
    "guidance": "model.guidance",
    "finish_steps": "model.finish.num_steps",
    "finish_guidance_scale": "model.finish.guidance_scale",
    "finish_shift": "model.finish.shift",
    "step_cache": "model.step_cache.method",
    "step_cache_threshold": "model.step_cache.threshold",
    "guidance_scale": "model.guidance_scale",
    "low_noise_guidance_scale": "model.low_noise_guidance_scale",
    "negative_prompt": "model.negative_prompt",
    "strength": "model.strength",
    "num_frames": "data.num_frames",
    "start": "data.start",
    "end": "data.end",
    "fps": "data.fps",
    "output_fps": "data.output_fps",
    "region": "data.region",
    "region_of": "data.region_of",
    "place": "data.place",
    "dtype": "model.backbone.init_args.dtype",
    "quantization": "model.backbone.init_args.quantization",
    "baseline": "model.baseline",
}
"""The setting that an option stands for, where it is one as it is."""


def checked_options(given: Mapping[str, Any]) -> TransferOptions:
    """Return options under their present names, their texts read as what they stand for.

    Raises:
        UserError: If there is no such option, or its value is of another type.
    """
    options = new_names(given, TRANSFER)
    unknown = [name for name in options if name not in TransferOptions.__annotations__]
    if unknown:
        raise UserError(f"there is no setting {unknown[0]!r}; use {', '.join(TransferOptions.__annotations__)}")
    try:
        read = _parser().parse_object(options)
    except ArgumentError as error:
        raise UserError(one_line(str(error))) from error
    return cast(TransferOptions, {name: read[name] for name in options})


@cache
def _parser() -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_function_arguments(_take_options, as_group=False)
    return parser


def _take_options(**options: Unpack[TransferOptions]) -> None:
    """Stand for the options, whose types the parser reads off here."""


def config_of(options: TransferOptions) -> Path:
    """Return the config that options override."""
    return options.get("config") or default_config(options.get("model") or "wan-tiny")


def settings_of(options: TransferOptions, config: Config | None = None) -> dict[str, Any]:
    """Return what options override of the config, by dotted names; ``None`` is the config's own.

    >>> settings_of({"num_steps": 4, "num_guided_steps": 2, "size": "48x48", "config": Path("a.yaml")})
    {'model.num_steps': 4, 'model.num_guided_steps': 2, 'data.size': [48, 48]}

    Args:
        options: The options.
        config: The config. Default: what the options name.

    Raises:
        UserError: If one cannot be read.
    """
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    if not {"model", "config"} & given.keys() and config is None:
        given["model"] = "wan-tiny"
    strength = given.pop("motion_strength", None)
    if strength is not None:
        _check_strength(strength, given)
    if ("num_steps" in given or strength is not None) and "num_guided_steps" not in given:
        base = read_config(config_of(options)) if config is None else config
        share = _guided_share(base, given.get("num_steps"), 1.0 if strength is None else strength)
        given |= {} if share is None else {"num_guided_steps": share}
    settings = {SETTINGS[name]: value for name, value in given.items() if name in SETTINGS}
    if "image" in given:
        settings["data.images"] = [str(given["image"])]
    if "size" in given:
        settings["data.size"] = parse_size(given["size"])
    if "loras" in given:
        settings["model.backbone.init_args.loras"] = parse_loras(given["loras"])
    if "finish_loras" in given:
        settings["model.finish.loras"] = parse_loras(given["finish_loras"])
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
        UserError: If a setting, the clip or the model cannot be used; the message says what to change.
    """
    config = merged(read_config(config_of(options)), settings_of(options) | settings)
    trainer = in_folder(folder, [*results, *([TransferProgress()] if progress else []), Preemption(request)])
    cli = compose(config, trainer, check="clips" if read_clips else "settings")
    warn_if_unguided(cli, {**options, **settings})
    return cli


def in_folder(folder: Path, callbacks: Sequence[Callback]) -> dict[str, Any]:
    """Return a trainer's settings for a run that keeps its checkpoint, logs and results in a folder."""
    progress = any(isinstance(each, ProgressBar) for each in callbacks)
    return {
        "callbacks": [*callbacks, LastCheckpoint(folder / "checkpoints")],
        "logger": run_loggers(folder),
        "enable_model_summary": False,
        "enable_progress_bar": progress,
    }


def warn_if_unguided(cli: TransferCLI, given: Mapping[str, Any]) -> None:
    """Warn of a transfer that guides no step, unless what was given asks for that."""
    asked = 0 in (given.get("num_guided_steps"), given.get("motion_strength")) or "model.num_guided_steps" in given
    if not cli.model.num_guided_steps and not asked:
        rank_zero_warn("num_guided_steps is 0: no video will move as its clip does; set --num-guided-steps")


def checkpoint_of(folder: Path) -> Path:
    """Return where a run keeps its checkpoint."""
    return folder / "checkpoints" / "last.ckpt"


def fit(cli: TransferCLI | DistillCLI, folder: Path) -> None:
    """Run a transfer or a training, from its checkpoint if it has one; a damaged one is put aside.

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


def _check_strength(strength: float, given: Mapping[str, Any]) -> None:
    """Raise ``UserError`` if a motion strength cannot be used."""
    if not 0 <= strength < inf:
        raise UserError(f"motion_strength is {strength}; use 0 or more (1 is the config's own)")
    if "num_guided_steps" in given:
        raise UserError("motion_strength and num_guided_steps both set the guided steps; leave one of them out")


def _guided_share(config: Config, num_steps: int | None, strength: float) -> int | None:
    """Return as large a share of the steps as a config guides, times a strength; one at least, unless either is 0.

    ``None`` if the config's own numbers are none, which its parser refuses.
    """
    model = config.get("model") or {}
    guided, steps = model.get("num_guided_steps", 10), model.get("num_steps", 50)
    if not isinstance(guided, int) or not isinstance(steps, int) or steps < 1:
        return None
    wanted = steps if num_steps is None else num_steps
    return min(wanted, max(round(strength * guided / steps * wanted), int(strength * guided > 0)))
