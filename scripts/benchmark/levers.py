"""Part g: what the memory levers save and cost."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from guidance import fresh_gradient
from measure import MIB, medians, now, table
from subject import Sizes, load_subject

from fastvmt_pl.backbones import DiffusersBackbone
from fastvmt_pl.processes.peak_memory import PeakMemory

LEVERS: dict[str, dict[str, Any]] = {
    "none": {},
    "gradient_checkpointing": {"gradient_checkpointing": True},
    "attention_backend: _native_math": {"attention_backend": "_native_math"},
    "compile": {"compile": True},
}
FRAMES, SIDE = 5, 384


def part_g(folder: Path, sizes: Sizes, repeats: int) -> str:
    """Measure a fresh gradient and a prediction under each lever, and decoding with and without tiles."""
    gradients: dict[str, Callable[[], Any]] = {}
    predictions: dict[str, Callable[[], Any]] = {}
    first, peaks = {}, {}
    for name, lever in LEVERS.items():
        subject = load_subject(folder, sizes, **lever)
        gradients[name] = lambda subject=subject: fresh_gradient(subject)
        predictions[name] = lambda module=subject.module: module.denoised(module.latents.data, 0)
        begun = now(sizes.device)
        gradients[name]()
        predictions[name]()
        first[name] = now(sizes.device) - begun
        peaks[name] = _peak(gradients[name], sizes.device)
    seconds, predicted = (medians(sides, repeats, sizes.device) for sides in (gradients, predictions))
    rows = [
        [
            name,
            f"{seconds[name]:.3f}",
            f"{seconds[name] / seconds['none']:.2f}",
            f"{peaks[name]:.0f}",
            f"{predicted[name]:.3f}",
            f"{predicted[name] / predicted['none']:.2f}",
            f"{first[name]:.1f}",
        ]
        for name in LEVERS
    ]
    header = [
        "g. Transformer",
        "gradient, s",
        "ratio",
        "its peak, MiB",
        "denoising step, s",
        "ratio",
        "both, first time, s",
    ]
    return table(header, rows) + "\n" + _decoding(sizes.device)


def _decoding(device: str) -> str:
    sides = {}
    for name, tiling in (("whole", False), ("vae_tiling", True)):
        backbone = DiffusersBackbone(vae_tiling=tiling).to(device)
        latents = torch.zeros(1, *backbone.latent_shape(FRAMES, SIDE, SIDE), device=device)
        sides[name] = lambda backbone=backbone, latents=latents: backbone.decode(latents)
    peaks = {name: _peak(decode, device) for name, decode in sides.items()}
    seconds = medians(sides, 1, device)
    rows = [[name, f"{seconds[name]:.2f}", f"{peaks[name]:.0f}"] for name in sides]
    return table([f"g. Decoding on wan-tiny, {FRAMES} frames of {SIDE} x {SIDE}", "seconds", "peak, MiB"], rows)


def _peak(run: Callable[[], Any], device: str) -> float:
    with PeakMemory(device) as peak:
        run()
    return peak.num_bytes / MIB
