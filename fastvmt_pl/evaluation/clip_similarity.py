"""CLIP similarity of frames to a prompt and to each other, as papers on motion transfer report it."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity
from transformers import CLIPModel, CLIPProcessor

from fastvmt_pl.errors import UserError
from fastvmt_pl.evaluation.tracks import Frames
from fastvmt_pl.evaluation.video_metrics import VideoMetric


class ClipEmbedder:
    """Embeds pictures and texts with CLIP (Radford et al., ICML 2021), from transformers.

    Args:
        model: A hub id, such as openai/clip-vit-base-patch32, or a local folder, with weights in safetensors.
        device: Device that it runs on.

    Raises:
        UserError: If there is no such model.
    """

    def __init__(self, model: str, device: str = "cpu") -> None:
        try:
            self.model = CLIPModel.from_pretrained(model, use_safetensors=True).to(device).eval()
            self.processor = CLIPProcessor.from_pretrained(model)
        except OSError as error:
            raise UserError(f"the CLIP model {model} cannot be read ({error}); give a hub id or a folder") from error
        self.device = device

    @torch.no_grad()
    def pictures(self, frames: Frames) -> Float[Tensor, "frames dim"]:
        """Embed pictures."""
        inputs = self.processor(images=list(frames.numpy()), return_tensors="pt").to(self.device)
        features: Tensor = self.model.visual_projection(self.model.vision_model(**inputs).pooler_output)
        return features.cpu()

    @torch.no_grad()
    def text(self, text: str) -> Float[Tensor, "1 dim"]:
        """Embed a text; a text that is too long for CLIP is cut."""
        inputs = self.processor(text=[text], return_tensors="pt", truncation=True).to(self.device)
        features: Tensor = self.model.text_projection(self.model.text_model(**inputs).pooler_output)
        return features.cpu()


def text_similarity(pictures: Float[Tensor, "frames dim"], text: Float[Tensor, "1 dim"]) -> float:
    """Return the mean cosine similarity of frames and prompt: the text similarity of the papers."""
    return float(cosine_similarity(pictures, text).mean())


def frame_similarity(pictures: Float[Tensor, "frames dim"]) -> float:
    """Return the mean cosine similarity of consecutive frames: the temporal consistency of the papers."""
    return float(cosine_similarity(pictures[:-1], pictures[1:]).mean())


class ClipMetric(VideoMetric):
    """A score by CLIP.

    Args:
        embedder: The CLIP model.
        options: Options of :class:`torchmetrics.Metric`.
    """

    higher_is_better = True

    def __init__(self, embedder: ClipEmbedder, **options: Any) -> None:
        super().__init__(**options)
        self.embedder = embedder


class ClipTextSimilarity(ClipMetric):
    """Similarity of frames to a prompt, see :func:`text_similarity`."""

    def update(self, output: Frames, prompt: str) -> None:
        """Add a video."""
        self.add(text_similarity(self.embedder.pictures(output), self.embedder.text(prompt)))


class ClipFrameSimilarity(ClipMetric):
    """Similarity of consecutive frames, see :func:`frame_similarity`."""

    def update(self, output: Frames) -> None:
        """Add a video."""
        self.add(frame_similarity(self.embedder.pictures(output)))
