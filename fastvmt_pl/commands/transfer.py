"""``fastvmt transfer``: from a clip and a prompt to a video."""

from pathlib import Path

import yaml
from lightning.pytorch.callbacks import ModelCheckpoint

from fastvmt_pl.backbones.wan import Precision
from fastvmt_pl.callbacks import Costs, RunFolder, TransferPreviews, TransferProgress
from fastvmt_pl.commands.lightning import TransferCLI
from fastvmt_pl.commands.options import (
    as_arguments,
    claimed_folder,
    default_config,
    parse_device,
    parse_loras,
    parse_size,
    run_loggers,
    slug,
)
from fastvmt_pl.datamodules import check_file
from fastvmt_pl.jobs import TransferResult


def transfer(
    clip: str,
    prompt: str,
    model: str | None = None,
    output: Path | None = None,
    seed: int = 0,
    steps: int | None = None,
    guided_steps: int | None = None,
    guidance_scale: float | None = None,
    negative_prompt: str | None = None,
    strength: float | None = None,
    num_frames: int | None = None,
    size: str | None = None,
    device: str | None = None,
    dtype: Precision | None = None,
    lora: str | list[str] | None = None,
    baseline: bool | None = None,
    config: Path | None = None,
) -> TransferResult:
    """Make a video that shows a prompt and moves as a clip moves.

    Writes a folder with the video, the same video without guidance, both beside the clip, pictures of the motion, and
    measures. A run that was stopped goes on where it was when it is started again with the same settings.

    Args:
        clip: Video file whose motion is wanted.
        prompt: What the new video is to show: its content and look, not its motion.
        model: wan-tiny (bundled, and taken if neither this nor a config names one), a local diffusers folder, or a hub
            id such as Wan-AI/Wan2.1-T2V-1.3B-Diffusers.
        output: Folder for the results; made of clip, prompt and seed under runs/ if left out.
        seed: Seed of the noise.
        steps: Denoising steps.
        guided_steps: How many of them, from the first, are guided; the config's share of the steps if left out.
        guidance_scale: How closely to follow the prompt; 1 turns classifier-free guidance off.
        negative_prompt: What to steer away from.
        strength: Where to start: 1 is pure noise, less keeps some of the clip's layout.
        num_frames: Frames to read and to make, 4 n + 1.
        size: Height x width in pixels, such as 480x832, multiples of 16.
        device: auto, cpu, cuda, cuda:1 or mps.
        dtype: Precision of the model's weights.
        lora: Folder of fastvmt distill or a .safetensors file to start from, with a weight behind a colon if it is not
            1; a list for several.
        baseline: Also make the video without guidance, to compare.
        config: YAML file of settings, all of which the other options override; one that fits the model if left out.

    Returns:
        The video's latents and pictures, and the baseline's pictures.

    Raises:
        ValueError: If a setting, the clip, the model or the folder cannot be used; the message says what to change.
    """
    check_file(clip)
    folder = output or Path("runs") / slug(Path(clip).stem, prompt, str(seed))
    callbacks = [
        Costs(),
        RunFolder(folder),
        TransferProgress(),
        TransferPreviews(),
        ModelCheckpoint(folder / "checkpoints", save_top_k=0, save_last=True, save_on_train_epoch_end=True),
    ]
    model = model or ("wan-tiny" if config is None else None)
    path = config or default_config(model or "wan-tiny")
    if steps is not None and guided_steps is None:
        guided_steps = _guided_share(path, steps)
    options = {
        "model.backbone.init_args.model": model,
        "model.backbone.init_args.dtype": dtype,
        "model.backbone.init_args.loras": None if lora is None else parse_loras(lora),
        "model.num_steps": steps,
        "model.num_guided_steps": guided_steps,
        "model.guidance_scale": guidance_scale,
        "model.negative_prompt": negative_prompt,
        "model.strength": strength,
        "model.baseline": baseline,
        "data.clips": [clip],
        "data.prompts": [prompt],
        "data.seed": seed,
        "data.num_frames": num_frames,
        "data.size": None if size is None else parse_size(size),
        **({} if device is None else parse_device(device)),
    }
    cli = TransferCLI(
        args=as_arguments(path, options),
        trainer_defaults={"callbacks": callbacks, "logger": run_loggers(folder), "enable_model_summary": False},
        run=False,
        save_config_callback=None,
    )
    with claimed_folder(folder, config=cli.parser.dump(cli.config, skip_link_targets=False)):
        last = folder / "checkpoints" / "last.ckpt"
        cli.trainer.fit(cli.model, cli.datamodule, ckpt_path=last if last.exists() else None, weights_only=True)
    result: TransferResult = cli.model.result
    print(f"the result lies in {folder}")
    return result


def _guided_share(config: Path, num_steps: int) -> int:
    """Return as large a share of the steps as the config guides."""
    model = (yaml.safe_load(config.read_text()) or {}).get("model", {})
    share: float = model.get("num_guided_steps", 10) / model.get("num_steps", 50)
    return min(num_steps, round(share * num_steps))
