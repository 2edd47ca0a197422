"""Clips, images and backbones that are given as objects, in place of files and names."""

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, uint8

from fastvmt_pl.backbones import Backbone
from fastvmt_pl.clips import Clip, check_file
from fastvmt_pl.clips.image import SMALLEST
from fastvmt_pl.errors import UserError
from fastvmt_pl.regions import RegionGiven
from fastvmt_pl.runs.identity import Settings, identity_of
from fastvmt_pl.runs.lightning_cli import TransferCLI


def clip_of(clip: str | Path | Clip | Tensor, fps: float | None) -> str | Clip:
    """Return a clip as a datamodule takes it.

    Args:
        clip: A file, a folder, a clip, or frames.
        fps: Frames a second of frames.

    Raises:
        UserError: If it cannot be one.
    """
    if isinstance(clip, Tensor):
        if clip.ndim != 4 or clip.shape[-1] != 3 or clip.dtype != uint8:
            raise UserError(f"the clip is {clip.dtype} of {list(clip.shape)}; give uint8 [frames, height, width, 3]")
        if fps is None:
            raise UserError("the clip is a tensor of frames; say by fps how many of them make a second")
        return Clip(clip, fps, "frames")
    if isinstance(clip, Clip):
        return clip
    _check_path("clip", clip)
    check_file(clip)
    return str(clip)


def image_of(image: str | Path | Tensor) -> str | Tensor:
    """Return an image as a datamodule takes it.

    Raises:
        UserError: If it cannot be one.
    """
    if not isinstance(image, Tensor):
        _check_path("image", image)
        return str(image)
    if image.ndim != 3 or image.shape[-1] != 3 or image.dtype != uint8:
        raise UserError(f"the image is {image.dtype} of {list(image.shape)}; give uint8 [height, width, 3]")
    if min(image.shape[:2]) < SMALLEST:
        raise UserError(f"the image is {list(image.shape)}; give one of at least {SMALLEST} pixels a side")
    return image


def region_of(region: RegionGiven) -> str | list[float] | Tensor:
    """Return a region as a datamodule takes it.

    Raises:
        UserError: If it cannot be one.
    """
    if isinstance(region, Tensor):
        if region.ndim not in (2, 3) or region.dtype != torch.bool:
            raise UserError(
                f"the region is {region.dtype} of {list(region.shape)}; give booleans, [frames,] height, width"
            )
        return region
    if isinstance(region, str | Path):
        return str(region)
    try:
        return [float(each) for each in region]
    except (TypeError, ValueError) as error:
        raise UserError(
            f"the region is a {type(region).__name__} and no box; give four numbers, a path, or a tensor of booleans"
        ) from error


def _check_path(name: str, given: object) -> None:
    if not isinstance(given, str | Path):
        raise UserError(f"the {name} is a {type(given).__name__}; give a path or a tensor, as by torch.from_numpy")


def settings_of_backbone(backbone: Backbone, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a run on a backbone that is in memory.

    Raises:
        UserError: If an option would change the backbone.
    """
    for name in ("dtype", "quantization", "loras"):
        if options.get(name) is not None:
            raise UserError(f"{name} is given with a backbone; give it to load_backbone")
    return {"model.backbone": backbone}


def described(cli: TransferCLI) -> str:
    """Return a run's settings as YAML, with names in place of objects."""
    config = cli.config.clone()
    config.data.clips = [each.name if isinstance(each, Clip) else str(each) for each in config.data.clips]
    if config.data.images:
        config.data.images = ["pixels" if isinstance(each, Tensor) else str(each) for each in config.data.images]
    if isinstance(config.data.region, Tensor):
        config.data.region = "masks"
    if isinstance(config.model.backbone, Backbone):
        config.model.backbone = config.model.backbone.source
    text: str = cli.parser.dump(config, skip_link_targets=False, skip_validation=True)
    return text


def identity_with(config: Mapping[str, Any], cli: TransferCLI) -> Settings:
    """Return what changes the result of a run; objects count by their content, as files do.

    Args:
        config: The run's settings as read from YAML.
        cli: The run that is wanted, with its objects.
    """
    found = identity_of(config)
    given = cli.config.data.clips
    if any(isinstance(each, Clip) for each in given):
        found["data.clips"] = [_content(each.frames) for each in given]
    images = cli.config.data.images or []
    if any(isinstance(each, Tensor) for each in images):
        found["data.images"] = [_content(each) for each in images]
    if isinstance(cli.config.data.region, Tensor):
        found["data.region"] = _content(cli.config.data.region)
    if isinstance(cli.config.model.backbone, Backbone):
        found["model.backbone"] = f"fingerprint {cli.config.model.backbone.fingerprint()}"
    return found


def _content(frames: Tensor) -> str:
    return f"frames sha256 {sha256(frames.numpy().tobytes()).hexdigest()}"
