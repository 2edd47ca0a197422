"""Part f: guided steps of a Wan of the size of Wan 2.1 1.3B, and the memory they take."""

import resource
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from jobs import StepTimer, compose_job, toy_clip
from measure import in_own_process, medians, table
from subject import write_pipeline

NUM_GUIDED_STEPS = 3
GIB = 2**30


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
        Seconds of a guided and of an unguided step, the last loss, and the peaks of this process's resident memory and
        of the GPU's tensors in GiB; without a GPU, the last is 0.
    """
    settings = {
        "model.num_steps": NUM_GUIDED_STEPS,
        "model.num_guided_steps": NUM_GUIDED_STEPS,
        "data.num_frames": num_frames,
        "data.size": list(size),
    }
    cli = compose_job(str(folder), toy_clip(scratch, num_frames), scratch / "cache", device, settings)
    timer = StepTimer()
    cli.trainer.callbacks.append(timer)
    cli.trainer.fit(cli.model, cli.datamodule)
    assert cli.model.result is not None
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    allocated = torch.cuda.max_memory_allocated() if device.startswith("cuda") else 0
    cli.model.backbone.to(device)
    unguided = medians({"": lambda: cli.model.denoised(cli.model.latents.data, 0)}, 1, device)[""]
    loss = float(cli.trainer.callback_metrics["loss"])
    return [timer.median_epoch(), unguided, loss, resident / GIB, allocated / GIB]


def part_f(scratch: Path, device: str, num_frames: int, size: tuple[int, int]) -> str:
    """Run it in a process of its own, apart from the one that makes the weights."""
    folder = scratch / "full-size"
    in_own_process(write_full_size, folder)
    guided, unguided, loss, resident, allocated = in_own_process(
        guide_full_size, folder, scratch, num_frames, size, device
    )
    rows = [
        ["seconds a guided step (10 inner steps, 4 gradients, denoising)", f"{guided:.2f}"],
        ["seconds an unguided step (two predictions)", f"{unguided:.2f}"],
        ["those of 10 guided and 40 unguided steps, added up", f"{10 * guided + 40 * unguided:.0f}"],
        ["last loss", f"{loss:.4g}"],
        ["peak resident memory, GiB", f"{resident:.2f}"],
    ]
    if allocated:
        rows.append(["peak of tensors on the GPU, GiB", f"{allocated:.2f}"])
    heading = f"f. Wan 1.3B's size, {num_frames} frames of {size[0]} x {size[1]} pixels, bfloat16"
    return table([heading, "value"], rows)
