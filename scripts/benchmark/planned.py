"""What each shipped config takes at its usual size: memory, what makes it fit into less, and forward passes.

Planned with folders of the models' configs, written here, since a plan reads no weights.
"""

import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    AutoencoderKLWan,
    CogVideoXDDIMScheduler,
    CogVideoXTransformer3DModel,
    FlowMatchEulerDiscreteScheduler,
    WanTransformer3DModel,
)
from jsonargparse import auto_cli
from safetensors.torch import save_file
from transformers import CLIPVisionConfig, T5Config, UMT5Config

from fastvmt_pl.backbones.model_folder import BUNDLED
from fastvmt_pl.method.motion_transfer import Guidance
from fastvmt_pl.planning import gib
from fastvmt_pl.planning.planned_share import PlannedShare, Share
from fastvmt_pl.planning.planning_run import PROMPT, plan_shares
from fastvmt_pl.runs.transfer_options import TransferOptions

CONFIGS = Path(__file__).parents[2] / "configs"
MEMORY = (12, 16, 24, 80)
"""GiB of GPUs."""
WAN_14B = {"num_attention_heads": 40, "ffn_dim": 13824, "num_layers": 40}
IMAGE_14B = WAN_14B | {"in_channels": 36, "out_channels": 16}
CLIP_TOKENS = {"image_dim": 1280, "added_kv_proj_dim": 5120}
COGVIDEOX_5B = {"num_attention_heads": 48, "num_layers": 42, "use_rotary_positional_embeddings": True}
VAE_5B = {
    "base_dim": 160,
    "decoder_base_dim": 256,
    "z_dim": 48,
    "is_residual": True,
    "in_channels": 12,
    "out_channels": 12,
    "patch_size": 2,
    "scale_factor_spatial": 16,
    "latents_mean": [0.0] * 48,
    "latents_std": [1.0] * 48,
}
UMT5_XXL = {"d_model": 4096, "d_ff": 10240, "num_layers": 24, "num_heads": 64, "vocab_size": 256384}
T5_XXL = UMT5_XXL | {"vocab_size": 32128, "feed_forward_proj": "gated-gelu"}
VIT_H = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 16,
    "patch_size": 14,
}
TRANSFORMERS: dict[str, Mapping[str, Any]] = {
    "wan2.1_1.3b": {"num_attention_heads": 12, "ffn_dim": 8960, "num_layers": 30},
    "wan2.1_14b": WAN_14B,
    "wan2.1_i2v_14b": IMAGE_14B | CLIP_TOKENS,
    "wan2.2_ti2v_5b": {
        "num_attention_heads": 24,
        "ffn_dim": 14336,
        "num_layers": 30,
        "in_channels": 48,
        "out_channels": 48,
    },
    "wan2.2_t2v_a14b": WAN_14B,
    "wan2.2_i2v_a14b": IMAGE_14B,
    "cogvideox/2b": {},
    "cogvideox/5b": COGVIDEOX_5B,
    "cogvideox/1.5-5b": COGVIDEOX_5B
    | {"patch_size_t": 2, "patch_bias": False, "sample_height": 300, "sample_width": 300, "sample_frames": 81},
}
"""Settings of each config's transformer that are not the defaults of its class, from the models' own configs."""


def write_configs(config: str, folder: Path) -> None:
    """Write the folder of the model that a config in configs/ is for.

    Args:
        config: The config's name, a key of :data:`TRANSFORMERS`.
        folder: Where to write.
    """
    wan, settings = config.startswith("wan"), TRANSFORMERS[config]
    shutil.copytree(
        BUNDLED["wan-tiny"], folder, ignore=shutil.ignore_patterns("*.safetensors", "*.json"), dirs_exist_ok=True
    )
    shutil.copytree(BUNDLED["wan-tiny"] / "tokenizer", folder / "tokenizer", dirs_exist_ok=True)
    index: dict[str, Any] = json.loads((BUNDLED["wan-tiny"] / "model_index.json").read_text())
    with torch.device("meta"):
        if wan:
            transformer: Any = WanTransformer3DModel(**settings)
            vae: Any = AutoencoderKLWan(**(VAE_5B if "5b" in config else {}))
        else:
            transformer, vae = CogVideoXTransformer3DModel(**settings), AutoencoderKLCogVideoX()
    transformer.save_config(folder / "transformer")
    vae.save_config(folder / "vae")
    text_encoder = UMT5Config(**UMT5_XXL) if wan else T5Config(**T5_XXL)
    text_encoder.save_pretrained(folder / "text_encoder")
    scheduler: Any = (
        FlowMatchEulerDiscreteScheduler() if wan else CogVideoXDDIMScheduler(prediction_type="v_prediction")
    )
    scheduler.save_config(folder / "scheduler")
    index["transformer"] = ["diffusers", type(transformer).__name__]
    index["vae"] = ["diffusers", type(vae).__name__]
    if not wan:
        index |= {"_class_name": "CogVideoXPipeline", "text_encoder": ["transformers", "T5EncoderModel"]}
        index["scheduler"] = ["diffusers", "CogVideoXDDIMScheduler"]
    if "a14b" in config:
        transformer.save_config(folder / "transformer_2")
        index |= {"transformer_2": index["transformer"], "boundary_ratio": 0.9 if "i2v" in config else 0.875}
    if "i2v" in config and "ti2v" not in config:
        index["_class_name"] = "WanImageToVideoPipeline"
    if "image_dim" in settings:
        CLIPVisionConfig(**VIT_H).save_pretrained(folder / "image_encoder")
        index["image_encoder"] = ["transformers", "CLIPVisionModel"]
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
    for part in ("transformer", "transformer_2", "vae", "text_encoder", "image_encoder"):
        if (folder / part).exists():
            name = "model" if part.endswith("encoder") else "diffusion_pytorch_model"
            save_file({}, folder / part / f"{name}.safetensors")


def plan_config(config: str, folder: Path, guidance: Guidance) -> PlannedShare:
    """Return the plan of a transfer of one prompt, without a baseline, with a config in configs/."""
    options: TransferOptions = {"config": CONFIGS / f"{config}.yaml", "model": str(folder), "baseline": False}
    share = Share(options | {"guidance": guidance}, {}, {Path(): [PROMPT]})
    (found,) = plan_shares([share], 1, MEMORY[-1], calibrated=False)
    return found


def cost(found: PlannedShare) -> float:
    """Return a run's forward passes of the transformer, those of reading the clip included, as a multiple of plain."""
    module, steps = found.module, found.plan.steps
    passes = sum(found.plan.forward_equivalents(step) for step in steps if step.work in ("gradient", "prediction"))
    return passes / (module.num_steps * (1 if module.guidance_scale == 1 else 2))


def fitting(found: PlannedShare, memory: int) -> str:
    """Return what makes a run fit into some GiB."""
    found = replace(found, memory=memory * 2**30)
    if found.fits:
        return "fits"
    if not found.changes or found.changes[-1].plan.peak > found.room:
        return "no"
    return ", ".join(f"`{change.setting}`" for change in found.changes)


def main(configs: Sequence[str] = tuple(TRANSFORMERS)) -> None:
    """Print a table of configs.

    Args:
        configs: Their names, without the ending; default: all that are shipped.
    """
    names = "config | video | parameters | cost | cost, fused | peak, GiB | in"
    print(f"| {names} | {' | '.join(f'{each} GiB' for each in MEMORY)} |")
    print("| --- | --- | ---: | ---: | ---: | ---: | --- |" + " --- |" * len(MEMORY))
    for config in configs:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "model"
            write_configs(config, folder)
            fused, found = (plan_config(config, folder, guidance) for guidance in ("fused", "optimise"))
            size, workload = found.plan.sizes, found.plan.workload
            transformers = [part for name, part in size.items() if name.endswith("transformer")]
            cells = [
                f"{config}.yaml",
                f"{workload.num_frames} x {workload.size[0]} x {workload.size[1]}",
                f"{sum(part.num_parameters for part in transformers) / 1e9:.1f} B",
                f"{cost(found):.2f}",
                f"{cost(fused):.2f}",
                gib(found.plan.peak),
                found.plan.largest.name,
                *(fitting(found, memory) for memory in MEMORY),
            ]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
