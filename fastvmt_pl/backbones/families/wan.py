"""Wan 2.1 and 2.2 text to video, Wan 2.2 TI2V, and the bundled wan-tiny, a small model of the same classes.

Wan 2.2 TI2V and wan-tiny may be given the first frame: its latents are clean, and its tokens' timestep is 0.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from diffusers import AutoencoderKLWan, ModelMixin, WanPipeline, WanTransformer3DModel
from einops import rearrange, repeat
from jaxtyping import Float
from torch import Tensor, nn
from transformers import UMT5EncoderModel

from fastvmt_pl.backbones.condition import GIVEN, Condition
from fastvmt_pl.backbones.families.family import Defaults, Encoded, Family
from fastvmt_pl.backbones.families.wan_padding import NUM_TEXT_TOKENS, count_padding, trim_padding
from fastvmt_pl.backbones.geometry import Geometry
from fastvmt_pl.backbones.model_folder import BUNDLED, architecture, read_json
from fastvmt_pl.backbones.request import Latents
from fastvmt_pl.clips.clip import Video
from fastvmt_pl.errors import UserError
from fastvmt_pl.lora.layer_names import LayerNames

NEGATIVE_PROMPT = (
    "vivid colors, overexposed, static, blurry details, subtitles, stylized, artwork, painting, still image, overall "
    "gray, worst quality, low quality, JPEG artifacts, ugly, incomplete, extra fingers, poorly drawn hands, poorly "
    "drawn face, deformed, disfigured, malformed limbs, fused fingers, static frame, cluttered background, three legs, "
    "many people in background, walking backwards"
)
"""The negative prompt that Wan recommends, in English, as the published code of FastVMT uses it."""
FRAME_STEP = 4
"""``AutoencoderKLWan`` works in chunks of this many frames whatever its config says."""
SIZE_MULTIPLE = 16
"""``WanPipeline`` asks for heights and widths that divide by this."""
CONFIGS = {
    (30, 1536, 16, 1): "wan2.1_1.3b.yaml",
    (40, 5120, 16, 1): "wan2.1_14b.yaml",
    (40, 5120, 36, 1): "wan2.1_i2v_14b.yaml",
    (40, 5120, 16, 2): "wan2.2_t2v_a14b.yaml",
    (40, 5120, 36, 2): "wan2.2_i2v_a14b.yaml",
    (30, 3072, 48, 1): "wan2.2_ti2v_5b.yaml",
}
"""Shipped configs by layers, width, input channels and number of the transformers that they were made for."""
EXPERTS = ("transformer", "transformer_2")
"""The folders of Wan 2.2's two transformers."""
BUNDLED_DEFAULTS = Defaults(
    "wan_tiny.yaml", "wan_tiny_lora.yaml", "wan_tiny_prompts.txt", "", 8.0, teacher_batch_size=8
)
SECOND = r"^transformer_2\."
"""Pattern of the layers of a second transformer in a file of the first."""

LAYER_NAMES = LayerNames(
    blocks="blocks",
    adaptable=r"blocks\.\d+\.(attn[12]\.to_(q|k|v|out\.0)|ffn\.net\.(0\.proj|2))",
    original={
        r"^condition_embedder\.time_embedder\.linear_1": "time_embedding.0",
        r"^condition_embedder\.time_embedder\.linear_2": "time_embedding.2",
        r"^condition_embedder\.text_embedder\.linear_1": "text_embedding.0",
        r"^condition_embedder\.text_embedder\.linear_2": "text_embedding.2",
        r"^condition_embedder\.time_proj": "time_projection.1",
        r"^proj_out": "head.head",
        r"^scale_shift_table$": "head.modulation",
        r"\.attn1\.": ".self_attn.",
        r"\.attn2\.": ".cross_attn.",
        r"\.to_(q|k|v)": r".\1",
        r"\.to_out\.0": ".o",
        r"\.ffn\.net\.0\.proj": ".ffn.0",
        r"\.ffn\.net\.2": ".ffn.2",
        r"\.norm2": ".norm3",
        r"\.scale_shift_table": ".modulation",
    },
    foreign={
        SECOND: "belongs to the second expert of Wan 2.2, which this model does not have",
        r"k_img|v_img|img_emb|add_[kv]_proj|norm_added_k|image_embedder": (
            "belongs to image-to-video models; use a LoRA that was trained for text to video"
        ),
    },
)
EXPERT_LAYER_NAMES = replace(
    LAYER_NAMES,
    foreign={
        **LAYER_NAMES.foreign,
        SECOND: "belongs to the expert for low noise; use a file for each expert, NAME_high_noise and NAME_low_noise",
    },
)
"""The same for each of two transformers."""


class Wan(Family):
    """Wan's text-to-video models: cross-attention to 512 text tokens, most of them zeros; it predicts the velocity."""

    pipeline, transformer, autoencoder, text_encoder = (
        WanPipeline,
        WanTransformer3DModel,
        AutoencoderKLWan,
        UMT5EncoderModel,
    )
    text_tokens = "none"
    layer_names = LAYER_NAMES

    def read(self) -> None:
        """Set geometry and defaults from the configs."""
        self.check_transformer()
        config, vae = self.config, self.autoencoder_config
        self.geometry = Geometry(
            num_blocks=int(config["num_layers"]),
            head_dim=int(config["attention_head_dim"]),
            patch_size=tuple(config.get("patch_size", (1, 2, 2))),
            latent_channels=int(vae.get("z_dim", 16)),
            temporal_factor=int(vae.get("scale_factor_temporal", 4)),
            spatial_factor=int(vae.get("scale_factor_spatial", 8)),
            frame_step=FRAME_STEP,
            size_multiple=SIZE_MULTIPLE,
        )
        if config.get("in_channels") == config.get("out_channels"):  # it filters the latents that the model is given
            self.step_caches = (*self.step_caches, "sea")
        index = read_json(self.folder / "model_index.json")
        bundled = architecture(self.folder) in map(architecture, BUNDLED.values())
        self.images = "optional" if index.get("expand_timesteps") or bundled else "none"
        if bundled:
            self.defaults = BUNDLED_DEFAULTS
            return
        width = config.get("num_attention_heads", 0) * config["attention_head_dim"]
        shape = config["num_layers"], width, config.get("in_channels", 0), len(self.experts)
        fps = 24.0 if index.get("expand_timesteps") else 16.0
        self.defaults = Defaults(CONFIGS.get(shape), "wan2.1_lora.yaml", "prompts.txt", NEGATIVE_PROMPT, fps)

    def check_kind(self, index: Mapping[str, Any]) -> None:
        """Note the two transformers of Wan 2.2, which a boundary between their noise levels tells."""
        boundary, other = index.get("boundary_ratio"), (index.get("transformer_2") or [None, None])[1]
        if boundary is not None:
            self.experts, self.boundary, self.layer_names = EXPERTS, 1000 * float(boundary), EXPERT_LAYER_NAMES
        elif other is not None:
            raise UserError(
                f"{self.name} has a transformer_2 and no boundary_ratio in its model_index.json, which says at which "
                "noise levels it works; get the whole model"
            )

    def check_transformer(self) -> None:
        """Refuse a transformer that the pipeline's class cannot call.

        Raises:
            UserError: If it is one; the message says what it is.
        """
        if self.config.get("image_dim"):
            raise self.unsupported(f"a {self.pipeline.__name__} with an image-to-video transformer")

    def unsupported(self, kind: str) -> UserError:
        """Return the error that says what a model is and that it is not supported yet."""
        return UserError(
            f"{self.name} is {kind}, which is not supported yet; use Wan 2.1 text to video, Wan 2.1 I2V 14B, "
            "Wan 2.2 A14B or Wan 2.2 TI2V 5B"
        )

    def blocks(self, transformer: ModelMixin) -> list[nn.Module]:
        """Return all transformer blocks, in the order in which they run."""
        return list(transformer.blocks)

    def attention(self, block: nn.Module) -> nn.Module:
        """Return a block's self-attention."""
        assert isinstance(block.attn1, nn.Module)
        return block.attn1

    def prepare(self, transformer: ModelMixin) -> None:
        """Let cross-attention count the zeros that fill a prompt up instead of attending to each of them."""
        count_padding(transformer)

    def embed(self, text_pipeline: Any, prompt: str) -> Condition:
        """Embed a prompt as ``WanPipeline`` does: cleaned, and filled up with zeros to 512 tokens."""
        embedded, _ = text_pipeline.encode_prompt(
            prompt, do_classifier_free_guidance=False, max_sequence_length=NUM_TEXT_TOKENS
        )
        return Condition({"text": embedded})

    def blank(self, text_pipeline: Any, prompt: str) -> Condition:
        """Return ones where a prompt has tokens and zeros after them, once the text encoder has run on it."""
        (text,) = self.embed(text_pipeline, prompt).tensors.values()
        mask: Tensor = text_pipeline.tokenizer(
            prompt, max_length=NUM_TEXT_TOKENS, truncation=True, padding="max_length", return_tensors="pt"
        ).attention_mask
        return Condition({"text": mask[..., None].to(text.dtype).expand(text.shape).contiguous()})

    def embed_image(
        self, encode: Callable[[Video], Latents], image: Float[Tensor, "1 3 1 height width"], num_frames: int
    ) -> Condition:
        """Return the image's latents, which are the first latent frame."""
        return Condition({GIVEN: encode(image)})

    def inputs(
        self,
        transformer: ModelMixin,
        latents: Latents,
        timestep: Float[Tensor, "jobs"],
        condition: Condition,
        dtype: torch.dtype,
    ) -> dict[str, Any]:
        """Return the transformer's arguments, by name; given latents have a timestep of 0."""
        text = trim_padding(condition.tensors["text"]).to(latents.device, dtype)
        if condition.given is not None:
            timestep = self._timesteps(timestep, latents, condition.given.shape[2])
            latents = condition.fixed(latents)
        return {"hidden_states": latents.to(dtype), "timestep": timestep, "encoder_hidden_states": text}

    def _timesteps(
        self, timestep: Float[Tensor, "jobs"], latents: Latents, num_given: int
    ) -> Float[Tensor, "jobs tokens"]:
        """Return the timestep of each token, 0 in the first latent frames."""
        depth, height, width = (
            cells // side for cells, side in zip(latents.shape[2:], self.geometry.patch_size, strict=True)
        )
        timesteps = repeat(timestep, "jobs -> jobs frames tokens", frames=depth, tokens=height * width).clone()
        timesteps[:, : num_given // self.geometry.patch_size[0]] = 0
        return timesteps.flatten(1)

    def velocity(self, output: Tensor, latents: Latents, timestep: Float[Tensor, "jobs"]) -> Latents:
        """Return the transformer's output, which is the velocity, in fp32."""
        return output.float()

    def normalise(self, autoencoder: ModelMixin, latents: Encoded) -> Latents:
        """Return latents of mean 0 and deviation 1."""
        mean, std = _statistics(autoencoder, latents)
        return (latents - mean) / std

    def denormalise(self, autoencoder: ModelMixin, latents: Latents) -> Encoded:
        """Return latents with the autoencoder's own mean and deviation."""
        mean, std = _statistics(autoencoder, latents)
        return latents * std + mean

    def example(self) -> Condition:
        """Return 16 random text tokens, filled up with zeros."""
        text = torch.zeros(1, NUM_TEXT_TOKENS, int(self.config["text_dim"]))
        text[:, :16].normal_(generator=torch.Generator().manual_seed(1))
        return Condition({"text": text})

    def loading(self, expert: int) -> dict[str, Any]:
        """Return what tells ``load_lora_weights`` of the stock pipeline which transformer a file is for."""
        return {"load_into_transformer_2": True} if expert == 1 else {}

    def scheduler_code(self, shift: float) -> tuple[str, str]:
        """Return Euler's method, which the LoRA's videos are sampled with, in the place of Wan's UniPC."""
        name = "FlowMatchEulerDiscreteScheduler"
        return name, f"{name}(shift={shift:g})"


def _statistics(autoencoder: ModelMixin, latents: Tensor) -> list[Tensor]:
    config = autoencoder.config
    values = (torch.tensor(each, device=latents.device) for each in (config.latents_mean, config.latents_std))
    return [rearrange(value, "c -> 1 c 1 1 1") for value in values]
