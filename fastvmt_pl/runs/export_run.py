"""Write the LoRA of a checkpoint."""

from pathlib import Path
from pickle import UnpicklingError

import torch

from fastvmt_pl.datamodules import DistillationDataModule
from fastvmt_pl.distillation.lora_card import Training, export_lora, is_unfinished
from fastvmt_pl.distillation.motion_distillation import MotionDistillation
from fastvmt_pl.distillation.shard_index import clip_sha256, read_index
from fastvmt_pl.errors import UserError
from fastvmt_pl.files.atomic import PREFIX, remove_unfinished
from fastvmt_pl.runs.composition import compose_training
from fastvmt_pl.runs.settings import read_config


def export(checkpoint: Path, config: Path, output: Path) -> Path:
    """Write the LoRA of a checkpoint for diffusers and ComfyUI, verified, with a model card.

    Args:
        checkpoint: Checkpoint of fastvmt distill or fastvmt train, such as checkpoints/last.ckpt.
        config: The config.yaml that the training wrote to the same folder.
        output: Folder for the LoRA.

    Returns:
        The folder.

    Raises:
        UserError: If the checkpoint is not one of a LoRA, or not of the config's, or the folder is in use. One with a
            LoRA that was not finished or verified is used again.
        LoraError: If the files could not be verified; they stay, and the model card is ``UNVERIFIED.md``.
    """
    _claim(output)
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, UnpicklingError) as error:
        raise UserError(f"checkpoint {checkpoint} cannot be read: {error}") from error
    if "motion_distillation" not in state:
        raise UserError(f"checkpoint {checkpoint} holds no LoRA; give one of fastvmt distill or fastvmt train")
    module, data = _read_config(config)
    module.attach_adapter()
    try:
        module.load_state_dict(state["state_dict"])
    except RuntimeError as error:
        raise UserError(
            f"checkpoint {checkpoint} holds another LoRA than config {config} describes; give the config.yaml that "
            "the training wrote to the same folder"
        ) from error
    module.on_load_checkpoint(state)
    previews = state["callbacks"].get("LoraPreviews") or {
        "last": None,
        "prompts": [],
        "sampling": {},
        "shift": module.shift,
        "fps": None,
    }
    stopped = state["callbacks"].get("StopAtLeak") or {"stopped": False}
    if stopped["stopped"]:  # the LoRA is that of the preview before, as at the end of the training
        if stopped["adapter"] is None:
            raise UserError(f"the LoRA of {checkpoint} leaks from its first preview on; train it again, and slower")
        module.set_adapter(stopped["adapter"])
        previews = {**previews, "last": stopped["preview"]}
    with module.for_sampling():
        adapters = module.read_adapters()
    video, scores = previews["last"] or (None, {})
    training = Training(
        source=data.source,
        num_steps=state["global_step"],
        batch_size=state["motion_distillation"]["batch_size"],
        shape=module.backbone.video_shape(state["motion_distillation"]["shape"]),
        sampling=previews["sampling"],
        shift=previews["shift"],
        fps=previews["fps"],
        clip_hash=clip_sha256(read_index(data.folder, missing_ok=True)),
        prompts=previews["prompts"],
        scores=scores,
        preview=Path(video) if video is not None and Path(video).exists() else None,
    )
    export_lora(adapters, module, output, training)
    return output


def _claim(output: Path) -> None:
    """Refuse a folder that holds anything but an export that did not finish, and tidy up after that."""
    if not output.exists():
        return
    if not output.is_dir() or not (
        is_unfinished(output) or all(path.name.startswith(PREFIX) for path in output.iterdir())
    ):
        raise UserError(f"{output} is in use; choose another output")
    remove_unfinished(output)


def _read_config(config: Path) -> tuple[MotionDistillation, DistillationDataModule]:
    """Return the module and the datamodule of a config, whatever trainer it was for."""
    try:
        settings = read_config(config)
        made = compose_training({name: settings[name] for name in ("model", "data")}, with_trainer=False)
    except (UserError, KeyError) as error:
        raise UserError(f"config {config} cannot be read ({error}); give that of the training") from error
    return made.model, made.datamodule
