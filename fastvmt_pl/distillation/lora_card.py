"""Export a trained LoRA: write its files and model card, and verify them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from shutil import copyfile

from huggingface_hub import ModelCardData
from lightning.pytorch.utilities import rank_zero_info

from fastvmt_pl.backbones.model_folder import BUNDLED
from fastvmt_pl.distillation.motion_distillation import MotionDistillation
from fastvmt_pl.files.atomic import write_text, written_whole
from fastvmt_pl.lora import Adapter, LoraError, verify_lora, write_lora, written_files

UNVERIFIED = """
> **Not verified.** The comparison of these files with the trained adapter failed or did not finish. `fastvmt export`
> writes and verifies them again from a checkpoint.
"""


@dataclass(frozen=True)
class Training:
    """A LoRA's training, as described in its model card.

    Attributes:
        source: Description of the training data.
        num_steps: Number of optimiser steps.
        batch_size: Videos per step, over all processes.
        shape: Frames, height and width of the videos.
        shift: Shift of the noise schedule to sample with.
        sampling: Other arguments of the stock pipeline that previews were sampled with.
        fps: Frames per second of the videos; ``None`` is the model's usual frame rate.
        clip_hash: SHA-256 of the reference clip's file.
        prompts: Prompts of the previews.
        scores: Scores of the last preview.
        preview: Video file of the last preview.
    """

    source: str
    num_steps: int
    batch_size: int
    shape: tuple[int, int, int]
    shift: float
    sampling: dict[str, int | float] = field(default_factory=dict)
    fps: float | None = None
    clip_hash: str | None = None
    prompts: list[str] = field(default_factory=list)
    scores: dict[str, float] = field(default_factory=dict)
    preview: Path | None = None


def export_lora(
    adapters: Mapping[int, Adapter], module: MotionDistillation, folder: Path, training: Training
) -> dict[str, float]:
    """Write the files of a LoRA, and then verify them.

    The model card is ``UNVERIFIED.md`` until they are verified, and then ``README.md``, so that the LoRA is kept even
    if the verification fails or is killed.

    Args:
        adapters: The adapter of each adapted transformer, by its number.
        module: The module that trained it.
        folder: Folder for the files.
        training: The training that the card describes.

    Returns:
        Deviation of each file from the adapter; see :func:`~fastvmt_pl.lora.verify_lora`.

    Raises:
        LoraError: If the files could not be verified; they stay in the folder.
    """
    verified, unverified = folder / "README.md", folder / "UNVERIFIED.md"
    verified.unlink(missing_ok=True)  # of an earlier export, whose files are replaced
    write_text(unverified, model_card(adapters, module, training, verified=False))
    family = module.backbone.family
    alone = len(adapters) < len(family.experts)
    for expert, adapter in adapters.items():
        write_lora(adapter, folder, family, expert, alone=alone)
    if training.preview is not None:
        with written_whole(folder / "preview.mp4") as path:
            copyfile(training.preview, path)
    rank_zero_info(f"the LoRA is in {folder}; verifying its files")
    try:
        deviations: dict[str, float] = {}
        for expert, adapter in adapters.items():
            deviations |= verify_lora(adapter, folder, Path(module.backbone.source), family, expert)
    except (RuntimeError, OSError, MemoryError) as error:
        raise LoraError(f"the LoRA in {folder} is complete but not verified: {error}") from error
    write_text(unverified, model_card(adapters, module, training))
    unverified.replace(verified)  # at once, so that a killed process leaves one card
    return deviations


def is_unfinished(folder: Path) -> bool:
    """Return whether a folder holds a LoRA whose export was killed, or whose files could not be verified."""
    return (folder / "UNVERIFIED.md").exists() and not (folder / "README.md").exists()


def model_card(
    adapters: Mapping[int, Adapter], module: MotionDistillation, training: Training, *, verified: bool = True
) -> str:
    """Return a model card with code that loads the LoRA, and a warning if it is not verified."""
    backbone = module.backbone
    data = ModelCardData(
        base_model=backbone.name,
        license=backbone.licence,
        library_name="diffusers",
        pipeline_tag="image-to-video" if backbone.family.images == "required" else "text-to-video",
        tags=["lora", "video-motion-transfer", "fastvmt"],
    )
    size = sum(weight.numel() for adapter in adapters.values() for weight in adapter.weights.values())
    alpha = next(iter(adapters.values())).config.lora_alpha
    experts = {expert: backbone.family.expert_names[expert] for expert in adapters}
    settings = {
        "base model": f"{backbone.name} ({backbone.licence})",
        "rank, alpha": f"{module.lora['rank']}, {alpha:g}",
        **({"adapted transformers": ", ".join(experts.values())} if any(experts.values()) else {}),
        "adapted layers": ", ".join(module.lora["targets"]),
        "parameters": f"{size:,}",
        "learned from": training.source,
        "objective": module.objective,
        "seed": module.seed,
        "steps x videos": f"{training.num_steps} x {training.batch_size}",
        "reference clip, SHA-256": training.clip_hash or "not known",
        **{f"preview: {name.replace('_', ' ')}": f"{value:.3f}" for name, value in training.scores.items()},
    }
    rows = "\n".join(f"| {name} | {value} |" for name, value in settings.items())
    shown = "\n".join(f"- {prompt}" for prompt in training.prompts)
    first = "the clip and then" if training.clip_hash else "in this order"
    previews = f"\n`preview.mp4` shows, side by side, {first}:\n\n{shown}\n" if training.preview else ""
    carried = "the motion of one reference clip" if training.clip_hash else "what its training videos have in common"
    frames, height, width = training.shape
    given = {"negative_prompt": module.negative_prompt, "num_frames": frames, "height": height, "width": width}
    arguments = "\n".join(f"    {name}={json.dumps(value)}," for name, value in (given | training.sampling).items())
    needs_image = backbone.family.images == "required"
    if needs_image:
        arguments = f'    image=load_image("picture.png").resize(({width}, {height})),\n{arguments}'
    bundled = backbone.name in BUNDLED
    model = f'BUNDLED["{backbone.name}"]' if bundled else f'"{backbone.name}"'
    fps = training.fps or backbone.family.defaults.fps
    pipeline = backbone.family.pipeline.__name__
    scheduler, made = backbone.family.scheduler_code(training.shift)
    files = {expert: written_files(backbone.family.layer_names, name) for expert, name in experts.items()}
    loaded = "\n".join(_loading(module, expert, file) for expert, (file, *_) in files.items())
    comfy = "".join(_comfyui(experts[expert], file) for expert, (_, *others) in files.items() for file in others)
    imported = "\nfrom fastvmt_pl.backbones.model_folder import BUNDLED" if bundled else ""
    return f"""---
{data.to_yaml()}
---

# A motion as a LoRA
{"" if verified else UNVERIFIED}
Carries {carried} to any prompt, at the cost of plain sampling.
{previews}
```python
import torch
from diffusers import {scheduler}, {pipeline}
from diffusers.utils import export_to_video{", load_image" if needs_image else ""}{imported}

pipeline = {pipeline}.from_pretrained({model}, torch_dtype=torch.bfloat16).to("cuda")
pipeline.scheduler = {made}
{loaded}
video = pipeline(
    "what the video is to show",
{arguments}
).frames[0]
export_to_video(video, "video.mp4", fps={fps:g})  # needs opencv-python or imageio
```
{comfy}
| | |
| --- | --- |
{rows}
"""


def _loading(module: MotionDistillation, expert: int, file: str) -> str:
    """Return the line of code that loads a file into the stock pipeline."""
    options = "".join(f", {name}={value!r}" for name, value in module.backbone.family.loading(expert).items())
    return f'pipeline.load_lora_weights("path/to/this/folder", weight_name="{file}"{options})'


def _comfyui(expert: str, file: str) -> str:
    which = f", after the loader of the {expert.replace('_', '-')} model" if expert else ""
    return f"""
`{file}` is the same LoRA for ComfyUI: put it into `models/loras` and load it with LoraLoaderModelOnly{which}.
"""
