"""``fastvmt export``: the LoRA of a checkpoint."""

from pathlib import Path
from pickle import UnpicklingError

import torch

from fastvmt_pl.commands.lightning import DistillCLI
from fastvmt_pl.lora import read_adapter
from fastvmt_pl.lora_card import Training, export_lora


def export(checkpoint: Path, config: Path, output: Path) -> Path:
    """Write the LoRA of a checkpoint for diffusers and ComfyUI, verified, with a model card.

    Args:
        checkpoint: Checkpoint of fastvmt distill or fastvmt train, such as checkpoints/last.ckpt.
        config: The config.yaml that was written beside it.
        output: Folder for the LoRA.

    Returns:
        The folder.

    Raises:
        ValueError: If the checkpoint is none of a LoRA, or the folder is in use.
    """
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ValueError(f"{output} is in use; choose another --output")
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, UnpicklingError) as error:
        raise ValueError(f"checkpoint {checkpoint} cannot be read: {error}") from error
    if "motion_distillation" not in state:
        raise ValueError(f"checkpoint {checkpoint} holds no LoRA; give one of fastvmt distill or fastvmt train")
    quiet = {"logger": False, "enable_progress_bar": False, "callbacks": None, "enable_checkpointing": False}
    cli = DistillCLI([f"--config={config}"], trainer_defaults=quiet, run=False, save_config_callback=None)
    module, data = cli.model, cli.datamodule
    module.attach_adapter()
    module.load_state_dict(state["state_dict"])
    module.on_load_checkpoint(state)
    with module.for_sampling():
        adapter = read_adapter(module.backbone.lora_model())
    batch_size = data.batch_size * cli.trainer.accumulate_grad_batches
    export_lora(adapter, module, output, Training(data.source, state["global_step"], batch_size))
    print(f"the LoRA lies in {output}")
    return output
