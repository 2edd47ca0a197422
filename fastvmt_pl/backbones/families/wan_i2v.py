"""Wan 2.1 and 2.2 image to video.

The image goes in as latents beside the noisy ones in all frames and, in 2.1, also as tokens of an image encoder.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from diffusers import ModelMixin, WanImageToVideoPipeline
from jaxtyping import Float
from PIL import Image
from torch import Tensor
from transformers import CLIPVisionModel, CLIPVisionModelWithProjection

from fastvmt_pl.backbones.condition import Condition
from fastvmt_pl.backbones.families.wan import LAYER_NAMES, Wan
from fastvmt_pl.backbones.model_folder import read_json
from fastvmt_pl.backbones.request import Latents
from fastvmt_pl.clips.clip import Video
from fastvmt_pl.clips.video_writing import to_frames

IMAGE_LATENTS = "image_latents"
"""Name of the mask of the frames that are known, and of the latents of a video that is the image and then gray."""
IMAGE_TOKENS = "image_tokens"
"""Name of the image encoder's tokens."""


class WanImageToVideo(Wan):
    """Wan's image-to-video models: they make all frames, the first included, and are shown the image beside them."""

    pipeline = WanImageToVideoPipeline
    image_encoder = CLIPVisionModel
    layer_names = replace(
        LAYER_NAMES,
        adaptable=r"blocks\.\d+\.(attn[12]\.to_(q|k|v|out\.0)|attn2\.add_[kv]_proj|ffn\.net\.(0\.proj|2))",
        original={
            r"^condition_embedder\.image_embedder\.norm1": "img_emb.proj.0",
            r"^condition_embedder\.image_embedder\.ff\.net\.0\.proj": "img_emb.proj.1",
            r"^condition_embedder\.image_embedder\.ff\.net\.2": "img_emb.proj.3",
            r"^condition_embedder\.image_embedder\.norm2": "img_emb.proj.4",
            r"\.add_([kv])_proj": r".\1_img",
            r"\.norm_added_k": ".norm_k_img",
            **LAYER_NAMES.original,
        },
        foreign={pattern: reason for pattern, reason in LAYER_NAMES.foreign.items() if "k_img" not in pattern},
    )

    def check_kind(self, index: Mapping[str, Any]) -> None:
        """Note the transformers; two of them have no image encoder."""
        super().check_kind(index)
        if len(self.experts) > 1:
            self.image_encoder = None

    @property
    def components(self) -> Mapping[str, str]:
        """Class names of the components that have weights; the image encoder's projection is not used if it has one."""
        if self.image_encoder is None:
            return super().components
        index = read_json(self.folder / "model_index.json")
        projects = (index.get("image_encoder") or [None, None])[1] == CLIPVisionModelWithProjection.__name__
        encoder = CLIPVisionModelWithProjection if projects else CLIPVisionModel
        return {**super().components, "image_encoder": encoder.__name__}

    @property
    def hashed(self) -> tuple[str, ...]:
        """The folders whose every byte tells models apart."""
        return super().hashed if self.image_encoder is None else (*super().hashed, "image_processor")

    def read(self) -> None:
        """Set geometry and defaults from the configs."""
        super().read()
        self.images = "required"

    def check_transformer(self) -> None:
        """Refuse transformers that take a last frame too, or tokens of the image other than their kind does."""
        if self.config.get("pos_embed_seq_len") is not None:
            raise self.unsupported("a Wan FLF2V, which takes a first and a last frame")
        takes_tokens = bool(self.config.get("image_dim"))
        if takes_tokens != (self.image_encoder is not None):
            how = f"{len(self.experts)} transformers and {'tokens' if takes_tokens else 'no tokens'} of the image"
            raise self.unsupported(f"a {self.pipeline.__name__} with {how}")

    def prepare(self, transformer: ModelMixin) -> None:
        """Leave transformers of 2.1 as they are: they take the last 512 tokens for the text's, and need all of them."""
        if self.image_encoder is None:
            super().prepare(transformer)

    def embed_image(
        self, encode: Callable[[Video], Latents], image: Float[Tensor, "1 3 1 height width"], num_frames: int
    ) -> Condition:
        """Return a mask that is 1 in the first latent frame, and the latents of the image and gray frames after it."""
        gray = image.new_zeros(1, 3, num_frames - 1, *image.shape[3:])
        latents = encode(torch.cat([image, gray], 2))
        mask = latents.new_zeros(1, self.geometry.temporal_factor, *latents.shape[2:])
        mask[:, :, 0] = 1
        return Condition({IMAGE_LATENTS: torch.cat([mask, latents], 1)})

    def see_image(self, image_pipeline: Any, image: Float[Tensor, "1 3 1 height width"]) -> Condition:
        """Return the tokens that the stock pipeline makes of the image."""
        picture = Image.fromarray(to_frames(image)[0, 0].numpy())
        return Condition({IMAGE_TOKENS: image_pipeline.encode_image(picture, image_pipeline.image_encoder.device)})

    def blank_image(self, latent_shape: tuple[int, int, int, int]) -> Condition:
        """Return ones in the shape of the mask with the image's latents, and of the image encoder's tokens."""
        channels, *grid = latent_shape
        shown = Condition({IMAGE_LATENTS: torch.ones(1, self.geometry.temporal_factor + channels, *grid)})
        if self.image_encoder is None:
            return shown
        config = self.image_encoder.config_class.from_pretrained(self.folder / "image_encoder")
        num_tokens = (config.image_size // config.patch_size) ** 2 + 1
        return shown.joined(Condition({IMAGE_TOKENS: torch.ones(1, num_tokens, config.hidden_size)}))

    def inputs(
        self,
        transformer: ModelMixin,
        latents: Latents,
        timestep: Float[Tensor, "jobs"],
        condition: Condition,
        dtype: torch.dtype,
    ) -> dict[str, Any]:
        """Return the transformer's arguments, by name; beside tokens of the image, all 512 of the text."""
        given = {name: tensor.to(latents.device, dtype) for name, tensor in condition.tensors.items()}
        inputs = super().inputs(transformer, latents, timestep, condition, dtype)
        inputs["hidden_states"] = torch.cat([latents.to(dtype), given[IMAGE_LATENTS]], 1)
        if self.image_encoder is not None:
            inputs |= {"encoder_hidden_states": given["text"], "encoder_hidden_states_image": given[IMAGE_TOKENS]}
        return inputs

    def example(self) -> Condition:
        """Return 16 random text tokens, filled up with zeros, and a random image."""
        draw, shapes = torch.Generator().manual_seed(2), self.blank_image(self.probe_shape)
        image = {name: torch.randn(ones.shape, generator=draw) for name, ones in shapes.tensors.items()}
        return super().example().joined(Condition(image))
