"""Part f: guided steps of a Wan of the size of Wan 2.1 1.3B, and the memory they take."""

import resource
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from jobs import StepTimer, compose, toy_clip
from measure import in_own_process, table
from subject import write_pipeline

NUM_GUIDED_STEPS = 3
GIB = 2**30
LIMIT = 16
"""GiB of resident memory that a run has to stay within."""


def write_full_size(folder: Path) -> None:
    """Write Wan 2.1 1.3B's transformer and autoencoder with random weights; the text encoder is the bundled one."""
    torch.manual_seed(0)
    vae = AutoencoderKLWan()
    torch.set_default_dtype(torch.bfloat16)  # in fp32 first, it would take twice the memory
    transformer = WanTransformer3DModel(num_attention_heads=12, ffn_dim=8960, num_layers=30, text_dim=64)
    torch.set_default_dtype(torch.float32)
    write_pipeline(folder, transformer, vae)


def guide_full_size(folder: Path, scratch: Path, num_frames: int, size: tuple[int, int], device: str) -> list[float]:
    """Take guided steps with the shipped config of Wan 2.1 1.3B.

    Returns:
        Seconds of a guided step, the last loss, and the peak of this process's resident memory in GiB.
    """
    cli = compose(
        str(folder),
        toy_clip(scratch),
        scratch / "cache",
        device,
        f"--model.num_steps={NUM_GUIDED_STEPS}",
        f"--model.num_guided_steps={NUM_GUIDED_STEPS}",
        f"--data.num_frames={num_frames}",
        f"--data.size={list(size)}",
    )
    timer = StepTimer()
    cli.trainer.callbacks.append(timer)
    cli.trainer.fit(cli.model, cli.datamodule)
    assert cli.model.result is not None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return [timer.median_epoch(), float(cli.trainer.callback_metrics["loss"]), peak / GIB]


def part_f(scratch: Path, device: str, num_frames: int = 9, size: tuple[int, int] = (128, 128)) -> str:
    """Run it in a process of its own, apart from the one that makes the weights."""
    folder = scratch / "full-size"
    in_own_process(write_full_size, folder)
    seconds, loss, peak = in_own_process(guide_full_size, folder, scratch, num_frames, size, device)
    rows = [
        ["seconds a guided step (10 inner steps, 4 gradients, denoising)", f"{seconds:.1f}"],
        ["last loss", f"{loss:.4g}"],
        ["peak resident memory, GiB", f"**{peak:.2f}** (limit {LIMIT})"],
    ]
    heading = f"f. Wan 1.3B's size, {num_frames} frames of {size[0]} x {size[1]} pixels, bfloat16"
    return table([heading, "value"], rows)
