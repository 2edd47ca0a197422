"""CogVideoX text to video: 2B, 5B and 1.5-5B.

It predicts v = sqrt(a) noise - sqrt(1 - a) clean at z = sqrt(a) clean + sqrt(1 - a) noise, where a is the cumulated
alpha of its scheduler. With s = sqrt(1 - a) / (sqrt(a) + sqrt(1 - a)), z is flow matching's x = (1 - s) clean + s noise
divided by n = sqrt((1 - s)^2 + s^2), and Euler's method on x is its DDIM, to rounding.

Noise levels s reach from 1, which is pure noise (zero signal-to-noise ratio), down to the first of its 1000 timesteps:
0.048 for 2B and 0.028 for 5B. Below that, the model is asked as at its first timestep.
"""

from functools import cached_property
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    ModelMixin,
)
from jaxtyping import Float
from torch import Tensor, nn
from transformers import T5EncoderModel

from fastvmt_pl.backbones.condition import Condition
from fastvmt_pl.backbones.families.family import Defaults, Encoded, Family
from fastvmt_pl.backbones.geometry import Geometry
from fastvmt_pl.backbones.model_folder import read_json
from fastvmt_pl.backbones.request import Latents
from fastvmt_pl.errors import UserError
from fastvmt_pl.lora.layer_names import LayerNames

CONFIGS = {(30, 1920, False): "2b.yaml", (42, 3072, False): "5b.yaml", (42, 3072, True): "1.5-5b.yaml"}
"""Shipped configs by layers, width and whether a token spans two latent frames (1.5)."""
FRAME_STEP = 8
"""The autoencoder decodes pairs of latent frames, each of 4 frames, so that only 8 n + 1 frames come back whole."""
Levels = Float[Tensor, "jobs"]


class CogVideoX(Family):
    """Joint attention to 226 text tokens, which come first and are not masked, and to the video's."""

    pipeline, transformer, autoencoder, text_encoder = (
        CogVideoXPipeline,
        CogVideoXTransformer3DModel,
        AutoencoderKLCogVideoX,
        T5EncoderModel,
    )
    text_tokens = "first"
    chooses_kernel = False
    layer_names = LayerNames(
        blocks="transformer_blocks",
        adaptable=r"transformer_blocks\.\d+\.(attn1\.to_(q|k|v|out\.0)|ff\.net\.(0\.proj|2))",
    )

    def read(self) -> None:
        """Set geometry and defaults from the configs."""
        config, vae = self.config, self.autoencoder_config
        if config.get("ofs_embed_dim") or config.get("in_channels", 16) != vae.get("latent_channels", 16):
            raise UserError(
                f"{self.name} is an image-to-video CogVideoX, which is not supported yet; use a text-to-video model"
            )
        schedule = read_json(self.folder / "scheduler" / "scheduler_config.json")
        if schedule.get("prediction_type") != "v_prediction":
            raise UserError(
                f"{self.name} predicts {schedule.get('prediction_type')}; only v_prediction is supported for CogVideoX"
            )
        patch, patch_frames = int(config.get("patch_size", 2)), config.get("patch_size_t")
        spatial_factor = 2 ** (len(vae.get("block_out_channels", "1234")) - 1)
        largest = [spatial_factor * int(config.get(name, 0)) for name in ("sample_height", "sample_width")]
        self.geometry = Geometry(
            num_blocks=int(config["num_layers"]),
            head_dim=int(config["attention_head_dim"]),
            patch_size=(patch_frames or 1, patch, patch),
            latent_channels=int(vae.get("latent_channels", 16)),
            temporal_factor=int(vae.get("temporal_compression_ratio", 4)),
            spatial_factor=spatial_factor,
            frame_step=FRAME_STEP,
            size_multiple=1,
            num_padding_frames=1 if patch_frames else 0,
            max_size=(largest[0], largest[1]) if patch_frames else None,  # of 1.5's table of rotary embeddings
        )
        width = config.get("num_attention_heads", 30) * config["attention_head_dim"]
        name = CONFIGS.get((config["num_layers"], width, bool(patch_frames)))
        self.defaults = Defaults(
            name and f"cogvideox/{name}", "cogvideox/lora.yaml", "prompts.txt", "", 16.0 if patch_frames else 8.0
        )

    @property
    def hashed(self) -> tuple[str, ...]:
        """The folders whose every byte tells models apart: noise levels follow from the scheduler's config."""
        return (*super().hashed, "scheduler")

    @cached_property
    def levels(self) -> Float[Tensor, "timesteps"]:
        """Noise level of each of the timesteps that the model was trained on, rising."""
        alphas = CogVideoXDDIMScheduler.from_pretrained(self.folder / "scheduler").alphas_cumprod.double()
        noise, clean = (1 - alphas).sqrt(), alphas.sqrt()
        levels: Tensor = noise / (clean + noise)
        return levels

    def blocks(self, transformer: ModelMixin) -> list[nn.Module]:
        """Return all transformer blocks, in the order in which they run."""
        return list(transformer.transformer_blocks)

    def attention(self, block: nn.Module) -> nn.Module:
        """Return a block's attention, which is one for text and video."""
        assert isinstance(block.attn1, nn.Module)
        return block.attn1

    def embed(self, text_pipeline: Any, prompt: str) -> Condition:
        """Embed a prompt as ``CogVideoXPipeline`` does, which attends to padding as to words."""
        embedded, _ = text_pipeline.encode_prompt(
            prompt, do_classifier_free_guidance=False, max_sequence_length=self._num_text_tokens
        )
        return Condition({"text": embedded})

    @property
    def _num_text_tokens(self) -> int:
        return int(self.config.get("max_text_seq_length", 226))

    def inputs(
        self, transformer: ModelMixin, latents: Latents, timestep: Levels, condition: Condition, dtype: torch.dtype
    ) -> dict[str, Any]:
        """Return the transformer's arguments, by name."""
        sigma = timestep / 1000
        noisy = latents / _spread(_norm(sigma), latents)
        return {
            "hidden_states": noisy.transpose(1, 2).to(dtype),
            "encoder_hidden_states": condition.tensors["text"].to(latents.device, dtype),
            "timestep": self.own_timestep(sigma),
            "image_rotary_emb": self._rotary(transformer, latents),
        }

    def own_timestep(self, sigma: Levels) -> Levels:
        """Return the model's timestep, 0 to 999, at a noise level: exact at its own levels, and linear between them."""
        levels = self.levels.to(sigma.device, sigma.dtype)
        above = torch.searchsorted(levels, sigma.contiguous()).clamp(1, len(levels) - 1)
        low, high = levels[above - 1], levels[above]
        return above - 1 + ((sigma - low) / (high - low)).clamp(0, 1)

    def _rotary(self, transformer: ModelMixin, latents: Latents) -> tuple[Tensor, Tensor] | None:
        """Return the rotary embedding, as the stock pipeline makes it; 2B has none."""
        if not transformer.config.use_rotary_positional_embeddings:
            return None
        factor, (frames, height, width) = self.geometry.spatial_factor, latents.shape[2:]
        pipeline = SimpleNamespace(vae_scale_factor_spatial=factor, transformer=transformer)
        make = CogVideoXPipeline._prepare_rotary_positional_embeddings
        rotary: tuple[Tensor, Tensor] = make(pipeline, factor * height, factor * width, frames, latents.device)
        return rotary

    def velocity(self, output: Tensor, latents: Latents, timestep: Levels) -> Latents:
        """Return noise less clean latents, both of which follow from v and the noisy latents."""
        sigma = timestep / 1000
        norm = _norm(sigma)
        clean, noise = _spread((1 - sigma) / norm, latents), _spread(sigma / norm, latents)  # shares of z
        noisy, predicted = latents / _spread(norm, latents), output.transpose(1, 2).float()
        return (clean * predicted + noise * noisy) - (clean * noisy - noise * predicted)

    def normalise(self, autoencoder: ModelMixin, latents: Encoded) -> Latents:
        """Return scaled latents; for 1.5, whose tokens span two of them, the first frame comes twice."""
        padding = latents[:, :, : self.geometry.num_padding_frames]
        scale: float = autoencoder.config.scaling_factor
        return torch.cat([padding, latents], 2) * scale

    def denormalise(self, autoencoder: ModelMixin, latents: Latents) -> Encoded:
        """Return latents without the padding in front and with the autoencoder's own scale."""
        scale: float = autoencoder.config.scaling_factor
        return latents[:, :, self.geometry.num_padding_frames :] / scale

    def example(self) -> Condition:
        """Return random text tokens."""
        shape = (1, self._num_text_tokens, int(self.config.get("text_embed_dim", 4096)))
        return Condition({"text": torch.randn(shape, generator=torch.Generator().manual_seed(1))})

    def scheduler_code(self, shift: float) -> tuple[str, str]:
        """Return the DDIM that Euler's method is for this model; it has noise levels of its own and no shift."""
        name = "CogVideoXDDIMScheduler"
        return name, f'{name}.from_config(pipeline.scheduler.config, timestep_spacing="trailing")'


def _norm(sigma: Levels) -> Levels:
    """Return what latents of flow matching are divided by to keep their variance."""
    return ((1 - sigma) ** 2 + sigma**2).sqrt()


def _spread(values: Levels, latents: Latents) -> Tensor:
    """Give each job's number the axes of its latents."""
    return values.view(-1, *[1] * (latents.ndim - 1))
