"""Parts a, b, d and j: a fresh gradient, a guided step, a step that reuses a gradient, and whole jobs."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import WanTransformer3DModel
from jobs import StepTimer, compose_job, reuse_every, toy_clip
from measure import MIB, medians, now, table
from published import PublishedBackbone, loss, measure
from subject import SETTINGS, Sizes, Subject
from torch import Tensor, nn

from fastvmt_pl.backbones.families.wan_padding import trim_padding
from fastvmt_pl.method.motion_transfer import MotionTransfer
from fastvmt_pl.processes.peak_memory import PeakMemory

INTERVAL = 3
NUM_STEPS, NUM_GUIDED_STEPS = 50, 10
"""Steps of a job in part j."""
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1, "float16": 0.1}
"""Allowed difference of final latents as a share of their change: AdamW turns rounding of tiny gradients into whole
steps, so single entries say little."""


def fresh_loss(subject: Subject) -> Tensor:
    """Return the module's loss."""
    subject.module.cached_gradients = {}
    for metric in subject.module.losses:  # each keeps the graph of its last value
        metric.reset()
    return subject.module.training_step(subject.target, 0)


def fresh_gradient(subject: Subject) -> None:
    """Compute a gradient of the latents as a training step does."""
    subject.module.latents.grad = None
    fresh_loss(subject).backward()


def bare_gradient(transformer: WanTransformer3DModel, latents: nn.Parameter, timestep: float, text: Tensor) -> None:
    """Run stock blocks up to the projections of block b, and back from the sum of queries and keys."""
    latents.grad = None
    cast, text = latents.to(transformer.dtype), text.to(transformer.dtype)
    times = torch.full((len(latents),), timestep, device=latents.device)
    rotary = transformer.rope(cast)
    hidden = transformer.patch_embedding(cast).flatten(2).transpose(1, 2).contiguous()
    _, modulation, text, _ = transformer.condition_embedder(times, text, None)
    modulation = modulation.unflatten(1, (6, -1))
    for block in transformer.blocks[: SETTINGS.block]:
        hidden = block(hidden, text, modulation, rotary)
    last = transformer.blocks[SETTINGS.block]
    shift, scale, *_ = (last.scale_shift_table + modulation.float()).chunk(6, dim=1)
    hidden = (last.norm1(hidden.float()) * (1 + scale) + shift).type_as(hidden)
    (last.attn1.to_q(hidden).sum() + last.attn1.to_k(hidden).sum()).backward()


def part_a(subject: Subject, sizes: Sizes, repeats: int) -> str:
    """Compare a fresh gradient with the bare cost of what it has to run."""
    module = subject.module
    transformer, timestep, text = module.backbone.transformer, module.timestep(0), module.condition.tensors["text"]
    bare = "stock blocks before b, query and key projections of b, forward and backward"
    counted = f"{bare}; padding counted, as ours"
    ours = "fresh gradient: early exit, windowed AMF, both losses, backward"
    sides = {
        bare: lambda: bare_gradient(transformer, module.latents, timestep, text),
        counted: lambda: bare_gradient(transformer, module.latents, timestep, trim_padding(text)),
        ours: lambda: fresh_gradient(subject),
    }
    seconds = medians(sides, repeats, sizes.device)
    rows = [[name, f"{value:.3f}", f"{value / seconds[counted]:.3f}"] for name, value in seconds.items()]
    return table(["a. Fresh gradient", "seconds", "ratio to the second row (target <= 1.15)"], rows)


def inner_steps(start: Tensor, module: MotionTransfer, loss_of: Callable[[nn.Parameter], Tensor]) -> Tensor:
    """Take all inner steps of a guided step with the module's optimiser, a fresh gradient at every third."""
    module.latents = nn.Parameter(start.clone())
    optimizer = module.configure_optimizers()
    for inner in range(module.num_inner_steps):
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * module.rates[inner]
        optimizer.zero_grad()
        if inner % INTERVAL == 0:
            loss_of(module.latents).backward()
            cached = module.latents.grad.clone()
        else:
            (module.latents * cached).sum().backward()
        optimizer.step()
    return module.latents.detach()


def part_b(subject: Subject, folder: Path, sizes: Sizes, repeats: int) -> str:
    """Compare a guided step with the published way of executing it, and see that both end at the same latents."""
    module, start, ends = subject.module, subject.module.latents.detach().clone(), {}
    timestep = module.timestep(0)
    theirs = PublishedBackbone(folder, sizes.dtype, sizes.device, SETTINGS.block)

    def run_ours() -> None:
        ends["ours"] = inner_steps(start, module, lambda latents: fresh_loss(subject))

    def run_published() -> None:
        with torch.no_grad():
            read = theirs.query_key(subject.noisy_reference, timestep, subject.null)
        target = measure(*read, sizes.grid, SETTINGS)
        ends["published"] = inner_steps(
            start, module, lambda latents: loss(*theirs.query_key(latents, timestep, module.condition), target)
        )

    sides = {"published": run_published, "ours": run_ours, "denoise": lambda: module.denoised(start, 0)}
    seconds = medians(sides, repeats, sizes.device)
    difference, change = ends["ours"] - ends["published"], ends["ours"] - start
    apart = difference.norm() / change.norm()
    torch.testing.assert_close(apart, torch.zeros_like(apart), rtol=0, atol=TOLERANCE[sizes.dtype])
    rows = [
        ["inner steps", *_compared(seconds["published"], seconds["ours"])],
        [
            "inner steps and the denoising step (two predictions, the same on both sides)",
            *_compared(seconds["published"] + seconds["denoise"], seconds["ours"] + seconds["denoise"]),
        ],
    ]
    return table(["b. Guided step", "published way, seconds", "ours, seconds", "ratio (target >= 2)"], rows) + (
        f"\nFinal latents agree: the difference is {apart:.1e} of their change (`torch.testing.assert_close`, atol "
        f"{TOLERANCE[sizes.dtype]:g}), at most {difference.abs().max():.1e} where they change by "
        f"{change.pow(2).mean().sqrt():.1e} (root mean square). The published way attends to all 512 text tokens and "
        "checkpoints its blocks; ours counts the padding and checkpoints nothing at this size.\n"
    )


def _compared(published: float, ours: float) -> list[str]:
    return [f"{published:.2f}", f"{ours:.2f}", f"{published / ours:.2f}"]


def optimizer_step(optimizer: torch.optim.Optimizer, loss_of: Callable[[], Tensor]) -> None:
    """Take one step of the optimiser."""
    optimizer.zero_grad()
    loss_of().backward()
    optimizer.step()


def reuse_steps(module: MotionTransfer, optimizer: torch.optim.Optimizer, count: int) -> None:
    """Take steps that reuse a gradient, by the module's own arithmetic."""
    module.cached_gradients = dict(enumerate(torch.ones_like(module.latents)))
    for _ in range(count):
        optimizer_step(optimizer, lambda: module.training_step(None, 0))
    module.cached_gradients = {}


def part_d(subject: Subject, sizes: Sizes, repeats: int, scratch: Path, count: int = 100) -> str:
    """Compare the arithmetic of a reuse step with a fresh one, and take the trainer's overhead apart."""
    module = subject.module
    optimizer = module.configure_optimizers()
    seconds = medians(
        {
            "fresh": lambda: optimizer_step(optimizer, lambda: fresh_loss(subject)),
            "reuse": lambda: reuse_steps(module, optimizer, count),
        },
        repeats,
        sizes.device,
    )
    reuse, overhead = seconds["reuse"] / count, trainer_overhead(scratch, sizes.device)
    rows = [
        ["fresh step", f"{1000 * seconds['fresh']:.2f}", "1"],
        ["reuse step", f"{1000 * reuse:.3f}", f"**{reuse / seconds['fresh']:.5f}**"],
        ["the trainer's overhead a step, beside the arithmetic (wan-tiny)", f"{1000 * overhead:.2f}", ""],
    ]
    return table(["d. Reuse step", "milliseconds", "ratio (target <= 0.02)"], rows)


def trainer_overhead(scratch: Path, device: str, count: int = 200) -> float:
    """Return the seconds that a reuse step takes in ``Trainer.fit`` beyond its arithmetic, on the bundled model."""
    timer = StepTimer()
    steps = {"model.num_steps": 1, "model.num_guided_steps": 1, "model.num_inner_steps": count}
    cli = compose_job("wan-tiny", toy_clip(scratch), scratch / "overhead", device, steps | reuse_every(count))
    cli.trainer.callbacks.append(timer)
    cli.trainer.fit(cli.model, cli.datamodule)
    optimizer = cli.model.configure_optimizers()
    begun = now(device)
    reuse_steps(cli.model, optimizer, count)
    return timer.median_step() - (now(device) - begun) / count


def part_j(subject: Subject, folder: Path, sizes: Sizes, repeats: int) -> str:
    """Compare whole jobs under each guidance with plain sampling, by the seconds and the memory of their steps."""
    module, start = subject.module, subject.module.latents.detach().clone()
    timestep, theirs = module.timestep(0), PublishedBackbone(folder, sizes.dtype, sizes.device, SETTINGS.block)
    fused = MotionTransfer(module.backbone, guidance="fused")
    fused.condition, fused.negative_condition = module.condition, module.negative_condition

    @torch.no_grad()
    def read() -> None:
        module.backbone.capture(subject.noisy_reference, timestep, subject.null, SETTINGS.request)

    def plain() -> None:
        module.denoised(start, 0)

    def fused_step() -> None:
        fused.latents = nn.Parameter(start.clone())
        optimizer_step(fused.configure_optimizers(), lambda: fresh_loss(replace(subject, module=fused)))
        fused.denoised(fused.latents.data, 0, fused.velocities[0][None])

    def optimised() -> None:
        module.denoised(inner_steps(start, module, lambda latents: fresh_loss(subject)), 0)

    def published() -> None:
        with torch.no_grad():
            target = measure(*theirs.query_key(subject.noisy_reference, timestep, subject.null), sizes.grid, SETTINGS)
        inner_steps(start, module, lambda latents: loss(*theirs.query_key(latents, timestep, module.condition), target))
        module.denoised(start, 0)

    sides = {"read": read, "plain": plain, "fused": fused_step, "optimise": optimised, "published": published}
    seconds = medians(sides, repeats, sizes.device)
    peaks = {}
    for name in ("plain", "fused", "optimise", "published"):
        with PeakMemory(torch.device(sizes.device)) as peak:
            sides[name]()
        peaks[name] = peak.num_bytes
    whole = NUM_STEPS * seconds["plain"]
    rows = []
    for name in ("plain", "fused", "optimise", "published"):
        guided = NUM_GUIDED_STEPS * (seconds[name] + (seconds["read"] if name in ("fused", "optimise") else 0))
        job = guided + (NUM_STEPS - NUM_GUIDED_STEPS) * seconds["plain"]
        job = whole if name == "plain" else job
        rows.append([name, f"{seconds[name]:.2f}", f"{job / whole:.2f}", f"{peaks[name] / MIB:.0f}"])
    return table(
        [
            f"j. {NUM_GUIDED_STEPS} of {NUM_STEPS} steps guided",
            "seconds of such a step",
            "whole job, to plain sampling",
            "peak MiB of such a step",
        ],
        rows,
    )
