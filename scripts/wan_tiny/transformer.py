"""Train the transformer and the text encoder of wan-tiny by flow matching on latents of toy clips.

Usage: ``python scripts/wan_tiny/transformer.py --output checkpoints/wan-tiny``, after ``autoencoder.py`` with the same
output; the same command resumes a run that was stopped. Writes ``OUTPUT/pipeline``, a ``WanPipeline`` folder.
"""

import json
import math
import os
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from einops import rearrange, repeat
from jsonargparse import auto_cli
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.functional import pad, scaled_dot_product_attention
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader
from transformers import T5Tokenizer, UMT5Config, UMT5EncoderModel

from fastvmt_pl.backbones.families.wan_padding import NUM_KEPT, count_padding
from fastvmt_pl.toy.toy_world import BACKGROUNDS, COLOURS, SHAPES, ToyWorld

TRAINING_SEED = 0
SHIFT = 3.0
SHORT_SHARE, MIDDLE_SHARE = 0.35, 0.25
"""Shares of the training that see 3 and 5 latent frames of each clip; the rest sees all 9."""


def small_tokenizer() -> T5Tokenizer:
    """Return a tokenizer with a token for each word of the toy world, and one for each character of other words."""
    words = ["a", "and", "on", "background", *COLOURS, *SHAPES, *BACKGROUNDS]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -4.0)]
    vocabulary += [(f"▁{word}", -1.0) for word in words]
    vocabulary += [(chr(code), -8.0) for code in range(33, 127)]
    return T5Tokenizer(vocab=vocabulary, extra_ids=0)


def small_text_encoder(vocabulary_size: int) -> UMT5EncoderModel:
    """Return an untrained text encoder of two layers."""
    config = UMT5Config(
        vocab_size=vocabulary_size, d_model=64, d_kv=16, num_heads=4, d_ff=128, num_layers=2, dropout_rate=0.0
    )
    return UMT5EncoderModel(config)


def small_transformer(latent_channels: int, num_layers: int, num_heads: int) -> WanTransformer3DModel:
    """Return an untrained transformer with a token for each latent position."""
    return WanTransformer3DModel(
        patch_size=(1, 1, 1),
        num_attention_heads=num_heads,
        attention_head_dim=48,
        in_channels=latent_channels,
        out_channels=latent_channels,
        text_dim=64,
        freq_dim=128,
        ffn_dim=num_heads * 192,
        num_layers=num_layers,
        rope_max_seq_len=64,
    )


class ComplexRotaryAttention(WanAttnProcessor):
    """Self-attention whose rotary embedding is a complex product: the same result, much cheaper on a CPU."""

    def __call__(
        self, attn: nn.Module, hidden_states: Tensor, text: None, mask: None, rotary: tuple[Tensor, Tensor]
    ) -> Tensor:
        angles = torch.complex(rotary[0][0, :, 0, 0::2].contiguous(), rotary[1][0, :, 0, 1::2].contiguous())[:, None]
        query, key = attn.norm_q(attn.to_q(hidden_states)), attn.norm_k(attn.to_k(hidden_states))
        query, key, value = (
            rearrange(x, "b n (h d) -> b n h d", h=attn.heads) for x in (query, key, attn.to_v(hidden_states))
        )
        query, key = (rotate(x, angles).to(value.dtype).transpose(1, 2) for x in (query, key))
        mixed = scaled_dot_product_attention(query, key, value.transpose(1, 2))
        return attn.to_out[0](rearrange(mixed, "b h n d -> b n (h d)"))


def rotate(tokens: Tensor, angles: Tensor) -> Tensor:
    """Turn neighbouring channels, taken as complex numbers, by their token's angles."""
    pairs = torch.view_as_complex(tokens.float().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * angles).flatten(-2)


class TextToLatents(nn.Module):
    """The two networks that are trained together."""

    def __init__(self, transformer: WanTransformer3DModel, text_encoder: UMT5EncoderModel) -> None:
        super().__init__()
        self.transformer, self.text_encoder = transformer, text_encoder
        count_padding(self.transformer)
        for block in self.transformer.blocks:
            block.attn1.set_processor(ComplexRotaryAttention())

    def forward(self, latents: Tensor, timestep: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
        text = self.text_encoder(ids, mask).last_hidden_state * mask[..., None]
        return self.transformer(latents, timestep, pad(text, (0, 0, 0, NUM_KEPT)), return_dict=False)[0]


@torch.no_grad()
def latent_bank(path: Path, autoencoder: AutoencoderKLWan, num_clips: int, device: str) -> tuple[Tensor, list[str]]:
    """Return normalised latents of clips, on the CPU, and their prompts; encoded once, then read."""
    if not path.exists():
        mean, std = (
            torch.tensor(x, device=device).view(1, -1, 1, 1, 1)
            for x in (autoencoder.config.latents_mean, autoencoder.config.latents_std)
        )
        autoencoder.to(device)
        parts, prompts = [], []
        batches = DataLoader(
            ToyWorld(TRAINING_SEED), 64, sampler=range(num_clips), collate_fn=list, num_workers=os.cpu_count() or 1
        )
        for clips in batches:
            frames = torch.stack([clip.frames for clip in clips]).to(device)
            video = rearrange(frames, "b f h w c -> b c f h w").float() / 127.5 - 1
            with torch.autocast(device, torch.bfloat16):
                encoded = autoencoder.encode(video).latent_dist.mode()
            parts.append(((encoded - mean) / std).half().cpu())
            prompts += [clip.prompt for clip in clips]
        save_file({"latents": torch.cat(parts)}, path, {"prompts": json.dumps(prompts)})
    with safe_open(path, "pt") as file:
        return file.get_tensor("latents"), json.loads(file.metadata()["prompts"])


def learning_rate_at(step: int, num_steps: int, peak: float, warmup: int = 50) -> float:
    """Linear warm-up, then a cosine to a fiftieth of the peak."""
    cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / num_steps)))
    return peak * min(1.0, (step + 1) / warmup) * max(cosine, 0.02)


def curriculum(progress: float, batch_size: int) -> tuple[int, int]:
    """Return the latent frames and the batch size of a step: short clips and many of them first, whole clips last."""
    if progress < SHORT_SHARE:
        return 3, 2 * batch_size
    if progress < SHORT_SHARE + MIDDLE_SHARE:
        return 5, batch_size * 3 // 2
    return 9, batch_size


def main(
    output: Path,
    num_steps: int = 1300,
    num_clips: int = 5000,
    batch_size: int = 16,
    num_layers: int = 6,
    num_heads: int = 3,
    learning_rate: float = 2.5e-3,
    whole_clips: bool = False,
    images: float = 0.0,
    ema_decay: float = 0.995,
    warm_start: Path | None = None,
    save_every: int = 100,
    device: str = "cpu",
) -> None:
    """Train, or go on training, and write ``OUTPUT/pipeline``.

    Args:
        output: Folder with ``vae``; gets checkpoints and the result.
        num_steps: Optimiser steps, those of earlier runs with this output included.
        num_clips: Toy clips in the bank; half of the time their mirror images are seen.
        batch_size: Clips a step.
        num_layers: Transformer blocks.
        num_heads: Attention heads of width 48.
        learning_rate: Peak rate of Muon (hidden matrices) and AdamW (the rest), cosine to a fiftieth.
        whole_clips: Train on whole clips from the first step, as for a warm start.
        images: Share of the clips whose first latent frame is given: without noise, and at timestep 0.
        ema_decay: Decay of the weights' moving average, which is what is written out.
        warm_start: A ``WanPipeline`` folder whose transformer and text encoder training starts from.
        save_every: Steps between two checkpoints.
        device: cpu or cuda.
    """
    torch.manual_seed(TRAINING_SEED)
    autoencoder = AutoencoderKLWan.from_pretrained(output / "vae")
    autoencoder.register_to_config(_name_or_path="")  # what is written names no folder of this machine
    latents, prompts = latent_bank(output / "bank.safetensors", autoencoder, num_clips, device)
    latents = latents.to(device)
    tokenizer = small_tokenizer()
    tokens = tokenizer([*prompts, ""], padding=True, return_tensors="pt")
    ids, mask = tokens.input_ids.to(device), tokens.attention_mask.to(device)
    if warm_start is None:
        transformer = small_transformer(latents.shape[1], num_layers, num_heads)
        text_encoder = small_text_encoder(len(tokenizer))
    else:
        transformer = WanTransformer3DModel.from_pretrained(warm_start / "transformer")
        transformer.register_to_config(_name_or_path="")
        text_encoder = UMT5EncoderModel.from_pretrained(warm_start / "text_encoder")
    model = TextToLatents(transformer, text_encoder).to(device)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(ema_decay))
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "blocks" in name and "transformer" in name]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    optimizers = [
        torch.optim.Muon(matrices, learning_rate, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, learning_rate, betas=(0.9, 0.98), weight_decay=0.01),
    ]
    checkpoint, start = output / "transformer-training.pt", 0
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        start = state["step"]
    begun = time.perf_counter()
    running = torch.zeros((), device=device)
    for step in range(start, num_steps):
        draw = torch.Generator(device).manual_seed(step)
        num_frames, num_drawn = curriculum(1.0 if whole_clips else step / num_steps, batch_size)
        index = torch.randint(len(latents), (num_drawn,), generator=draw, device=device)
        clean = latents[index, :, :num_frames].float()
        mirrored = torch.rand(num_drawn, generator=draw, device=device) < 0.5  # prompts name no direction
        clean[mirrored] = clean[mirrored].flip(-1)
        noise = torch.randn(clean.shape, generator=draw, device=device)
        uniform = torch.randn(num_drawn, generator=draw, device=device).sigmoid()
        sigma = SHIFT * uniform / (1 + (SHIFT - 1) * uniform)
        unnamed = torch.rand(num_drawn, generator=draw, device=device) < 0.1
        index[unnamed] = len(prompts)  # the empty prompt
        given = torch.rand(num_drawn, generator=draw, device=device) < images
        level = repeat(sigma, "b -> b 1 f h w", f=num_frames, h=clean.shape[-2], w=clean.shape[-1]).clone()
        level[given, :, 0] = 0.0
        timestep = 1000 * (rearrange(level, "b 1 f h w -> b (f h w)") if images else sigma)
        with torch.autocast(device, torch.bfloat16):
            velocity = model((1 - level) * clean + level * noise, timestep, ids[index], mask[index])
        free = (level > 0).expand_as(clean)
        loss = ((velocity.float() - (noise - clean)).square() * free).sum() / free.sum()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = learning_rate_at(step, num_steps, learning_rate)
            optimizer.step()
            optimizer.zero_grad()
        average.update_parameters(model)
        running += loss.detach()
        if (step + 1) % 25 == 0:
            seconds = (time.perf_counter() - begun) / (step + 1 - start)
            print(f"step {step + 1} loss {running / 25:.4f} ({seconds:.3f} s a step)", flush=True)
            running.zero_()
        if (step + 1) % save_every == 0 or step + 1 == num_steps:
            state = {
                "step": step + 1,
                "model": model.state_dict(),
                "average": average.state_dict(),
                "optimizers": [optimizer.state_dict() for optimizer in optimizers],
            }
            torch.save(state, checkpoint.with_suffix(".tmp"))
            os.replace(checkpoint.with_suffix(".tmp"), checkpoint)
            for block in average.module.transformer.blocks:
                block.attn1.set_processor(WanAttnProcessor())
            WanPipeline(
                tokenizer=tokenizer,
                text_encoder=average.module.text_encoder,
                vae=autoencoder,
                scheduler=FlowMatchEulerDiscreteScheduler(shift=SHIFT),
                transformer=average.module.transformer,
            ).save_pretrained(output / "pipeline")


if __name__ == "__main__":
    auto_cli(main, as_positional=False)
