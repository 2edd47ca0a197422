"""Distil wan-tiny's own sampling into a LoRA that needs few steps and no guidance scale.

Usage: ``python scripts/wan_tiny/few_steps.py --output FOLDER``; the same command resumes a run that was stopped. The
teacher makes videos of prompts that wan-tiny was trained on, unguided by any motion, and keeps its trajectories. The
LoRA is in ``FOLDER/few_steps.safetensors``; with the default settings, it is the bundled ``wan-tiny-few-steps``.
"""

import math
import random
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import auto_cli
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import load_file, save_file

from fastvmt_pl.clips.video_writing import write_video
from fastvmt_pl.files.atomic import written_whole
from fastvmt_pl.lora import DIFFUSERS_FILE, write_lora
from fastvmt_pl.runs.claims import claimed_folder
from fastvmt_pl.runs.composition import SILENT, compose, compose_training
from fastvmt_pl.runs.options import CONFIGS
from fastvmt_pl.runs.settings import merged, read_config
from fastvmt_pl.runs.teacher import make_samples
from fastvmt_pl.toy import ToyWorld
from fastvmt_pl.toy.toy_world import FPS, combinations, prompt_for

FIRST_SEED = 9000
"""Seed of the teacher's first sample."""
TARGETS = [f"{attention}.to_{part}" for attention in ("attn1", "attn2") for part in ("q", "k", "v", "out.0")]
TARGETS += ["ffn.net.0.proj", "ffn.net.2"]


def main(
    output: Path,
    num_samples: int = 128,
    few_steps: int = 4,
    rank: int = 16,
    num_steps: int = 300,
    batch_size: int = 16,
    lr: float = 2e-3,
) -> None:
    """Teach, train and write the LoRA.

    Args:
        output: Folder of samples, checkpoints and the LoRA.
        num_samples: Videos that the teacher makes.
        few_steps: Denoising steps that the LoRA is to need.
        rank: Rank of the LoRA.
        num_steps: Training steps.
        batch_size: Videos a step.
        lr: Learning rate, which falls to 0.
    """
    given = {name: value for name, value in locals().items() if name != "output"}
    with claimed_folder(output, config=yaml.safe_dump(given)):
        _teach(output, num_samples)
        settings: dict[str, Any] = {
            "model.rank": rank,
            "model.targets": TARGETS,
            "model.objective": "trajectory",
            "model.few_steps": few_steps,
            "model.prompt_dropout": 0.0,
            "model.ema_decay": 0.99,
            "model.optimizer.init_args.lr": lr,
            "data.folder": str(output / "data"),
            "data.source": "samples",
            "data.batch_size": batch_size,
            "data.batches_per_epoch": 50,
            "trainer.max_epochs": math.ceil(num_steps / 50),
        }
        config = merged(read_config(CONFIGS / "wan_tiny_lora.yaml"), settings)
        kept = ModelCheckpoint(output / "checkpoints", save_last=True)
        training = compose_training(config, {**SILENT, "callbacks": [kept], "enable_checkpointing": True})
        last = output / "checkpoints" / "last.ckpt"
        path = str(last) if last.exists() else None
        training.trainer.fit(training.model, training.datamodule, ckpt_path=path, weights_only=True)
        with training.model.for_sampling():
            write_lora(training.model.read_adapters()[0], output / "lora", training.model.backbone.family)
        weights = {name: x.to(torch.bfloat16) for name, x in load_file(output / "lora" / DIFFUSERS_FILE).items()}
        with written_whole(output / "few_steps.safetensors") as path:
            save_file(weights, path)


def _teach(output: Path, num_samples: int) -> None:
    """Make the teacher's samples, as far as that is not done."""
    clip = ToyWorld(0)[0]
    video = output / "clip.mp4"
    if not video.exists():
        write_video(video, clip.frames, FPS)
    seen = [prompt_for([item], ground) for item, ground in combinations(held_out=False)]
    prompts = seen * math.ceil(num_samples / len(seen))
    random.Random(0).shuffle(prompts)
    jobs = {
        "model.num_guided_steps": 0,
        "model.baseline": False,
        "model.keep_trajectory": True,
        "data.clips": [str(video)],
        "data.prompts": prompts[:num_samples],
        "data.seed": FIRST_SEED,
    }
    teacher = compose(merged(read_config(CONFIGS / "wan_tiny.yaml"), jobs))
    make_samples(teacher, clip.prompt, num_samples, output / "data", 16, math.inf)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
