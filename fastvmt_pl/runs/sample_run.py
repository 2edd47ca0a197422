"""``fastvmt sample``: a video of a prompt at the cost of plain sampling, with motions from LoRAs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml

from fastvmt_pl.backbones.precision import PrecisionOption
from fastvmt_pl.clips import Clip
from fastvmt_pl.clips.video_writing import enlarge, to_frames, write_video
from fastvmt_pl.errors import UserError
from fastvmt_pl.files.atomic import naming
from fastvmt_pl.files.names import slug
from fastvmt_pl.method.sampling import sample as draw
from fastvmt_pl.runs.claims import claimed_folder
from fastvmt_pl.runs.composition import compose
from fastvmt_pl.runs.identity import Settings, backbone_identity, content_of
from fastvmt_pl.runs.old_spellings import new_names
from fastvmt_pl.runs.options import Loras, default_config
from fastvmt_pl.runs.settings import merged, read_config
from fastvmt_pl.runs.transfer_options import TransferOptions, settings_of

NO_CLIP = Clip(torch.zeros(0, 1, 1, 3, dtype=torch.uint8), 1.0, "no clip")
"""Stands for the clip of a transfer that is composed and not run."""


def sample(
    prompt: str,
    image: Path | None = None,
    loras: Loras | None = None,
    model: str | None = None,
    output: Path | None = None,
    seed: int = 0,
    num_steps: int | None = None,
    guidance_scale: float | None = None,
    low_noise_guidance_scale: float | None = None,
    negative_prompt: str | None = None,
    num_frames: int | None = None,
    size: str | None = None,
    output_fps: float | None = None,
    device: str | None = None,
    dtype: PrecisionOption | None = None,
    config: Path | None = None,
    on_step: Callable[[int], None] = lambda num_steps: None,
) -> Path:
    """Make a video of a prompt, moving as the LoRAs say.

    Args:
        prompt: What the video is to show.
        image: Picture file that the video begins with, cropped to the video's size, for models that take one.
        loras: Folder of fastvmt distill or a .safetensors file, as PATH or PATH:WEIGHT; a list for several.
        model: wan-tiny (bundled; the default without a config), a local diffusers folder, or a hub id such as
            Wan-AI/Wan2.1-T2V-1.3B-Diffusers.
        output: Folder for the result. Default: one under runs/ that is named after prompt and seed.
        seed: Seed of the noise.
        num_steps: Denoising steps.
        guidance_scale: How closely to follow the prompt; 1 turns classifier-free guidance off.
        low_noise_guidance_scale: The same for low noise, for models that have a transformer of its own for that.
        negative_prompt: What to steer away from.
        num_frames: Frames to make; which numbers are possible is the model's rule.
        size: Height x width in pixels, such as 480x832; which are possible is the model's rule.
        output_fps: Frames a second of the video. Default: that of the videos that the model was trained on.
        device: auto, cpu, cuda, cuda:1 or mps.
        dtype: Precision of the model's weights; auto is bfloat16 where the device has instructions for it, or float32.
        config: YAML file of a transfer's settings; those of sampling are used. Default: a shipped one that fits the
            model.
        on_step: Called with the number of steps after each of them.

    Returns:
        The video file.

    Raises:
        ValueError: If a setting, a LoRA, the model or the folder cannot be used; the message says what to change.
    """
    if not prompt.strip():
        raise UserError("the prompt is empty; say what the video is to show")
    model = model or ("wan-tiny" if config is None else None)
    base = read_config(config or default_config(model or "wan-tiny"))
    given = TransferOptions(
        model=model,
        loras=loras,
        num_steps=num_steps,
        guidance_scale=guidance_scale,
        low_noise_guidance_scale=low_noise_guidance_scale,
        negative_prompt=negative_prompt,
        num_frames=num_frames,
        size=size,
        device=device,
        dtype=dtype,
    )
    settings = merged(base, settings_of(given, base))
    places = {
        name: value for name, value in (settings.get("trainer") or {}).items() if name in ("accelerator", "devices")
    }
    unguided: dict[str, Any] = {"model.num_guided_steps": 0, "model.finish": None, "model.strength": 1.0}
    unguided |= {"model.step_cache": None}
    unguided |= {"data.clips": [NO_CLIP], "data.prompts": [prompt]}
    unguided |= {"data.seed": seed} | ({} if output_fps is None else {"data.output_fps": output_fps})
    unguided |= {} if image is None else {"data.images": [str(image)]}
    cli = compose(merged({**settings, "trainer": places}, unguided), check="nothing")
    module, frames, video_size = cli.model, cli.datamodule.num_frames, cli.datamodule.size
    images = cli.datamodule.image_names
    backbone = module.backbone
    backbone.check_geometry(frames, *video_size)
    backbone.check_images(given=bool(images))
    folder = output or Path("runs") / slug("sample", prompt, str(seed))
    video = folder / "output.mp4"
    if video.exists():
        raise UserError(f"{folder} holds a finished run; choose another output")
    fps = cli.datamodule.output_fps or backbone.family.defaults.fps
    used = {name: cli.config.model[name] for name in ("num_steps", "guidance_scale", "negative_prompt", "shift")}
    chosen = {"prompt": prompt, "seed": seed, "output_fps": fps, "num_frames": frames, "size": list(video_size), **used}
    if module.low_noise_guidance_scale is not None:
        chosen["low_noise_guidance_scale"] = module.low_noise_guidance_scale
    chosen |= {"image": images[0]} if images else {}
    chosen |= cli.config.model.backbone.init_args.as_dict()
    text = yaml.safe_dump(chosen, sort_keys=False)
    with claimed_folder(folder, _identity, config=text), naming(folder):
        backbone.to(cli.trainer.strategy.root_device)
        latents = draw(
            backbone,
            [prompt],
            [seed],
            backbone.latent_shape(frames, *video_size),
            module.sigmas,
            module.guidance_scale,
            module.negative_prompt,
            cli.datamodule.fitted_images(),
            on_step=lambda: on_step(module.num_steps),
            low_noise_guidance_scale=module.low_noise_guidance_scale,
        )
        write_video(video, enlarge(to_frames(backbone.decode(latents))[0]), fps)
    return video


def _identity(files: dict[str, Any]) -> Settings:
    found = new_names(backbone_identity(files["config"]), {"fps": "output_fps"}, warn=False)
    return found | ({"image": content_of(found["image"])} if "image" in found else {})
