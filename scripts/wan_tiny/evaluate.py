"""Measure how well wan-tiny follows prompts that training never saw, through the stock ``WanPipeline``.

Usage: ``python scripts/wan_tiny/evaluate.py``. Prints the share of frames in which the prompted object is there, in one
piece, and on the prompted background, over all 64 held-out combinations, and draws 16 of the videos on one sheet.
"""

from pathlib import Path
from typing import TypeVar

import torch
from diffusers import AutoencoderKLWan, WanPipeline
from einops import rearrange
from jsonargparse import auto_cli

from fastvmt_pl.backbones.model_folder import BUNDLED
from fastvmt_pl.clips.video_writing import enlarge, to_frames, write_picture
from fastvmt_pl.toy.toy_tracker import score
from fastvmt_pl.toy.toy_world import ToyWorld, combinations, prompt_for

UNSEEN_SEED = 2

T = TypeVar("T")


@torch.no_grad()
def reconstruction(autoencoder: AutoencoderKLWan, num_clips: int) -> float:
    """Return the mean peak signal-to-noise ratio in dB of unseen clips after encoding and decoding."""
    values = []
    for index in range(num_clips):
        frames = ToyWorld(UNSEEN_SEED)[index].frames[None]
        video = rearrange(frames, "b f h w c -> b c f h w").float() / 127.5 - 1
        video = video.to(autoencoder.device)
        decoded = autoencoder.decode(autoencoder.encode(video).latent_dist.mode()).sample
        values.append(10 * torch.log10(4 / (decoded - video).pow(2).mean()))
    return float(torch.stack(values).mean())


def some_of(items: list[T], number: int) -> list[T]:
    """Pick one of each block of the combinations, another one each time, which mixes shapes and colours."""
    step = max(1, len(items) // number)
    return [items[place * step + (place + place // step) % step] for place in range(min(number, len(items)))]


def main(
    model: Path = BUNDLED["wan-tiny"],
    num_steps: int = 30,
    guidance_scale: float = 4.0,
    num_prompts: int = 64,
    batch_size: int = 16,
    seed: int = 0,
    sheet: Path | None = None,
    device: str = "cpu",
) -> None:
    """Sample the held-out prompts and print the scores.

    Args:
        model: A ``WanPipeline`` folder.
        num_steps: Denoising steps.
        guidance_scale: Classifier-free guidance scale.
        num_prompts: How many of the held-out combinations; fewer are spread evenly.
        batch_size: Prompts at a time.
        seed: Seed of the first batch's noise.
        sheet: PNG file for 16 of the videos, a row each.
        device: cpu or cuda.
    """
    pipeline = WanPipeline.from_pretrained(model).to(device)
    pipeline.set_progress_bar_config(disable=True)
    print(f"autoencoder: {reconstruction(pipeline.vae, 32):.2f} dB on unseen clips")
    chosen = some_of(combinations(held_out=True), num_prompts)
    scores, rows = [], []
    for start in range(0, num_prompts, batch_size):
        part = chosen[start : start + batch_size]
        generator = torch.Generator().manual_seed(seed + start)
        prompts = [prompt_for([item], background) for item, background in part]
        options = {"height": 48, "width": 48, "num_frames": 17, "num_inference_steps": num_steps}
        video = pipeline(
            prompts, guidance_scale=guidance_scale, generator=generator, output_type="pt", **options
        ).frames
        videos = to_frames(2 * rearrange(torch.as_tensor(video), "b f c h w -> b c f h w") - 1)
        scores += [score(frames, item, background) for frames, (item, background) in zip(videos, part, strict=True)]
        rows += [rearrange(frames[::2], "f h w c -> h (f w) c") for frames in videos]
        for name in ("present", "one_piece", "background"):
            print(
                f"{len(scores):3d} prompts, {name}: {sum(getattr(s, name) for s in scores) / len(scores):.1%}",
                flush=True,
            )
    if sheet is not None:
        picked = torch.cat(some_of(rows, 16))
        write_picture(sheet, enlarge(picked[None])[0])


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
