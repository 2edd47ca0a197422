"""Measure how well wan-tiny follows prompts and images that training never saw.

Usage: ``python scripts/wan_tiny/evaluate.py``. Prints the share of frames in which the prompted object is there, in one
piece, and on the prompted background: over all 64 held-out combinations, through the stock ``WanPipeline``, and over 32
videos that begin with a given image, with the distance of their first frames from it. Draws some videos on sheets.
"""

from pathlib import Path
from typing import TypeVar

import torch
from diffusers import AutoencoderKLWan, WanPipeline
from einops import rearrange
from jsonargparse import auto_cli

from fastvmt_pl.backbones import load_backbone
from fastvmt_pl.backbones.model_folder import BUNDLED
from fastvmt_pl.clips.clip import fit
from fastvmt_pl.clips.video_writing import enlarge, to_frames, write_picture
from fastvmt_pl.method.sampling import flow_matching_sigmas, sample
from fastvmt_pl.toy.toy_tracker import score
from fastvmt_pl.toy.toy_world import ToyWorld, combinations, prompt_for

UNSEEN_SEED = 2
SHIFT = 3.0

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


@torch.no_grad()
def from_images(
    model: Path, num_images: int, num_steps: int, guidance_scale: float, seed: int, sheet: Path | None, device: str
) -> None:
    """Make videos that begin with the first frames of unseen clips, and print how they show what these show."""
    backbone = load_backbone(str(model)).to(device)
    world = ToyWorld(UNSEEN_SEED, held_out=True, num_objects=1)
    clips = [world[number] for number in range(num_images)]
    images = torch.cat([fit(clip.frames[:1], clip.frames.shape[1:3]) for clip in clips])
    shape = backbone.latent_shape(len(clips[0].frames), *clips[0].frames.shape[1:3])
    latents = sample(
        backbone,
        [clip.prompt for clip in clips],
        [seed + number for number in range(num_images)],
        shape,
        flow_matching_sigmas(num_steps, SHIFT),
        guidance_scale,
        "",
        images,
    )
    videos = to_frames(torch.cat([backbone.decode(each) for each in latents.split(1)]))
    errors = torch.stack(
        [(video[0].float() - clip.frames[0].float()).square().mean() for video, clip in zip(videos, clips, strict=True)]
    )
    distances = 10 * torch.log10(255**2 / errors)
    print(f"{num_images} images, first frame: {distances.mean():.1f} dB on average, at least {distances.min():.1f}")
    scores = [score(video, clip.objects[0], clip.background) for video, clip in zip(videos, clips, strict=True)]
    for name in ("present", "one_piece", "background"):
        print(f"{num_images} images, {name}: {sum(getattr(s, name) for s in scores) / num_images:.1%}")
    if sheet is not None:
        rows = [rearrange(video[::2], "f h w c -> h (f w) c") for video in videos[:12]]
        write_picture(sheet, enlarge(torch.cat(rows)[None])[0])


def main(
    model: Path = BUNDLED["wan-tiny"],
    num_steps: int = 30,
    guidance_scale: float = 4.0,
    num_prompts: int = 64,
    batch_size: int = 16,
    seed: int = 0,
    sheet: Path | None = None,
    num_images: int = 32,
    image_sheet: Path | None = None,
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
        num_images: How many videos that begin with an image; 0 for none.
        image_sheet: PNG file for 12 of these.
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
    if num_images:
        from_images(model, num_images, num_steps, guidance_scale, seed, image_sheet, device)


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
