"""``fastvmt sample``: a video of a prompt at the cost of plain sampling, with motions from LoRAs."""

from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser
from lightning import Trainer
from rich.console import Console
from rich.progress import Progress

from fastvmt_pl.backbones.precision import PrecisionOption, settle_config
from fastvmt_pl.runs.claims import claimed_folder
from fastvmt_pl.runs.identity import backbone_identity
from fastvmt_pl.runs.options import as_arguments, default_config, parse_device, parse_loras, parse_size
from fastvmt_pl.files.names import slug
from fastvmt_pl.datamodules import MotionDataModule
from fastvmt_pl.errors import UserError, blaming_settings
from fastvmt_pl.files.atomic import naming
from fastvmt_pl.method.motion_transfer import MotionTransfer
from fastvmt_pl.method.sampling import sample as draw
from fastvmt_pl.clips.video_writing import enlarge, to_frames, write_video


def sample(
    prompt: str,
    lora: str | list[str] | None = None,
    model: str | None = None,
    output: Path | None = None,
    seed: int = 0,
    steps: int | None = None,
    guidance_scale: float | None = None,
    negative_prompt: str | None = None,
    num_frames: int | None = None,
    size: str | None = None,
    fps: float | None = None,
    device: str | None = None,
    dtype: PrecisionOption | None = None,
    config: Path | None = None,
) -> Path:
    """Make a video of a prompt, moving as the LoRAs say.

    Args:
        prompt: What the video is to show.
        lora: Folder of fastvmt distill or a .safetensors file, as PATH or PATH:WEIGHT; a list for several.
        model: wan-tiny (bundled, and taken if neither this nor a config names one), a local diffusers folder, or a hub
            id such as Wan-AI/Wan2.1-T2V-1.3B-Diffusers.
        output: Folder for the result; by default one under runs/ that is named after prompt and seed.
        seed: Seed of the noise.
        steps: Denoising steps.
        guidance_scale: How closely to follow the prompt; 1 turns classifier-free guidance off.
        negative_prompt: What to steer away from.
        num_frames: Frames to make, 4 n + 1.
        size: Height x width in pixels, such as 480x832, multiples of 16.
        fps: Frames a second; by default that of the videos that the model was trained on.
        device: auto, cpu, cuda, cuda:1 or mps.
        dtype: Precision of the model's weights; auto is bfloat16 where the device has instructions for it, or float32.
        config: YAML file of a transfer's settings, of which those of sampling are taken; one that fits the model if
            left out.

    Returns:
        The video file.

    Raises:
        ValueError: If a setting, a LoRA, the model or the folder cannot be used; the message says what to change.
    """
    if not prompt.strip():
        raise UserError("the prompt is empty; say what the video is to show")
    model = model or ("wan-tiny" if config is None else None)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(MotionTransfer, "model")
    parser.add_class_arguments(MotionDataModule, "data", skip={"clips", "prompts"}, instantiate=False)
    parser.add_argument("--trainer", type=dict[str, Any])
    options = {
        "model.backbone.init_args.model": model,
        "model.backbone.init_args.dtype": dtype,
        "model.backbone.init_args.loras": None if lora is None else parse_loras(lora),
        "model.num_steps": steps,
        "model.num_guided_steps": 0,
        "model.guidance_scale": guidance_scale,
        "model.negative_prompt": negative_prompt,
        "model.strength": 1.0,
        "data.num_frames": num_frames,
        "data.size": None if size is None else parse_size(size),
        **({} if device is None else parse_device(device)),
    }
    path = config or default_config(model or "wan-tiny")
    settings = parser.parse_args(as_arguments(path, options))
    with blaming_settings():
        module: MotionTransfer = parser.instantiate_classes(settings).model
    backbone, frames, video_size = module.backbone, settings.data.num_frames, settings.data.size
    backbone.check_geometry(frames, *video_size)
    places = {name: value for name, value in settings.trainer.items() if name in ("accelerator", "devices")}
    trainer = Trainer(**{"devices": 1, **places}, logger=False, enable_checkpointing=False)
    settle_config(settings.model.backbone, trainer.strategy.root_device)
    folder = output or Path("runs") / slug("sample", prompt, str(seed))
    video = folder / "output.mp4"
    if video.exists():
        raise UserError(f"{folder} holds a finished run; choose another output")
    fps = backbone.family.defaults.fps if fps is None else fps
    used = {name: settings.model[name] for name in ("num_steps", "guidance_scale", "shift")}
    used["negative_prompt"] = module.negative_prompt
    chosen = {"prompt": prompt, "seed": seed, "fps": fps, "num_frames": frames, "size": list(video_size), **used}
    chosen |= settings.model.backbone.init_args.as_dict()
    text = yaml.safe_dump(chosen, sort_keys=False)
    with claimed_folder(folder, lambda files: backbone_identity(files["config"]), config=text), naming(folder):
        backbone.to(trainer.strategy.root_device)
        with Progress(console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("denoising", total=module.num_steps)
            latents = draw(
                backbone,
                [prompt],
                [seed],
                backbone.latent_shape(frames, *video_size),
                module.sigmas,
                module.guidance_scale,
                module.negative_prompt,
                on_step=lambda: progress.advance(task),
            )
        write_video(video, enlarge(to_frames(backbone.decode(latents))[0]), fps)
    print(f"the result is in {folder}")
    return video
