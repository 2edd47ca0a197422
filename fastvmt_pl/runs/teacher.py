"""Make the data that a LoRA learns a motion from: the clip, and guided samples of many prompts that move as it does."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning import Callback
from lightning.pytorch.utilities import rank_zero_info

from fastvmt_pl.clips import content_hash
from fastvmt_pl.distillation import Sample, write_shard
from fastvmt_pl.distillation.shard_index import Shard, read_index, write_index
from fastvmt_pl.method.measuring import motion_of, relative_attention_flow_error
from fastvmt_pl.method.motion_transfer import MotionTransfer
from fastvmt_pl.runs.lightning_cli import TransferCLI

CLIP_SHARD = "clip.tar"


def make_samples(
    cli: TransferCLI,
    clip_prompt: str,
    num_samples: int,
    folder: Path,
    batch_size: int,
    max_flow_error: float,
    callbacks: Sequence[Callback] = (),
) -> None:
    """Fill a data folder with the clip and with guided samples, or go on where that was stopped.

    Samples are made in batches, a shard each. The index is written after each shard, so what it lists is whole.

    Args:
        cli: Transfer of the clip's motion, with a job for each sample.
        clip_prompt: What the clip shows.
        num_samples: How many of its jobs are run, from the first.
        folder: The data folder.
        batch_size: Samples at a time.
        max_flow_error: Samples whose relative attention flow error is above this are dropped.
        callbacks: What each trainer has beside its config's.
    """
    module, data = cli.model, cli.datamodule
    shards = read_index(folder, missing_ok=True)
    done = {shard.name for shard in shards}
    module.backbone.to(cli.trainer.strategy.root_device)
    if CLIP_SHARD not in done:
        (clip,) = data.read_clips(module)
        video = clip.to_video(data.size)
        latents = module.backbone.encode(video)[0]
        condition = module.backbone.embed_prompts([clip_prompt])
        module.backbone.release_text_encoder()
        if data.images is not None:  # the samples begin with their images, and the clip with its own first frame
            condition = condition.joined(module.backbone.embed_images(video[:, :, :1], data.num_frames))
        write_shard(folder / CLIP_SHARD, [Sample(latents, condition.compact(), clip_prompt)])
        shards.append(Shard(CLIP_SHARD, "clip", 1, sha256=content_hash(clip.name)))
        write_index(folder, shards)
    for start in range(0, num_samples, batch_size):
        name, some = f"samples-{start:05d}.tar", range(start, min(start + batch_size, num_samples))
        if name in done:
            continue
        samples = _guided(cli, some, callbacks)
        kept = [sample for sample in samples if sample.scores["relative_attention_flow_error"] <= max_flow_error]
        write_shard(folder / name, kept)
        shards.append(Shard(name, "samples", len(kept), len(samples) - len(kept)))
        write_index(folder, shards)
        errors = ", ".join(f"{sample.scores['relative_attention_flow_error']:.2f}" for sample in samples)
        rank_zero_info(f"{some.stop} of {num_samples} prompts: {len(kept)} of {len(some)} samples kept ({errors})")


def _guided(cli: TransferCLI, jobs: range, callbacks: Sequence[Callback]) -> list[Sample]:
    """Return a guided sample of each job, with its score."""
    module: MotionTransfer = cli.model
    data = cli.datamodule.of_jobs(jobs)
    trainer: Any = cli.instantiate_trainer()
    # As defaults of the CLI, each trainer would get them once more.
    trainer.callbacks += callbacks
    trainer.fit(module, data)
    result = module.result
    assert result is not None
    made, reference = (motion_of(module.backbone, x, data.motion) for x in (result.latents, data.jobs.reference))
    errors = relative_attention_flow_error(made, reference)
    condition = module.condition
    return [
        Sample(
            latents=result.latents[number],
            condition=condition[[number]].compact(),
            prompt=prompt,
            seed=seed,
            scores={"relative_attention_flow_error": round(float(errors[number]), 4)},
            trajectory=None if result.trajectory is None else result.trajectory[number],
            sigmas=None if result.trajectory is None else module.sigmas,
            guidance_scale=module.guidance_scale,
        )
        for number, (prompt, seed) in enumerate(zip(data.prompts, data.seeds, strict=True))
    ]
