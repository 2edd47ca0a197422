"""Read the reference: its latents, and its motion at each guided step, from the cache or from the backbone."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from jaxtyping import Float
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from fastvmt_pl.backbones import Backbone
from fastvmt_pl.backbones.request import Latents
from fastvmt_pl.clips.clip import Clip
from fastvmt_pl.method.extraction import read_levels
from fastvmt_pl.method.motion_cache import MotionCache
from fastvmt_pl.objectives import MotionFeature, MotionTarget

VERSION = 3
"""Part of every key of the cache: raised when what is stored changes its meaning."""
SHAPE = "token_shape"
"""Name of a stored tensor: latent frames, rows and columns of tokens."""


def read_reference(
    backbone: Backbone,
    clip: Clip,
    size: tuple[int, int],
    features: Sequence[MotionFeature],
    sigmas: Float[Tensor, "steps"],
    noise_seed: int,
    batch_size: int = 1,
    cache: MotionCache | None = None,
    with_image: bool = False,
) -> tuple[Latents, list[MotionTarget]]:
    """Return a clip's latents and its motion at each noise level, on the CPU.

    The cache has an entry for the latents and one for each feature, so that another feature does not encode again.

    Args:
        backbone: The model that is read.
        clip: The reference.
        size: Height and width in pixels.
        features: What is read; losses read the first unless they name another.
        sigmas: Noise level of each guided step.
        noise_seed: Seed of the noise in which the reference is read.
        batch_size: Noise levels in a forward pass.
        cache: Where entries are kept; ``None`` keeps none.
        with_image: The model is given the clip's first frame, as it is given the image of a video that begins with one.
    """
    video = clip.to_video(size)
    entries = _Entries(cache, "" if cache is None else _common(backbone, video), clip.name)
    found = entries.load({})
    latents = backbone.encode(video).cpu() if found is None else found["latents"]
    if found is None:
        entries.store({}, {"latents": latents})
    if not len(sigmas):
        return latents, []
    reading = {"sigmas": sigmas.tolist(), "noise_seed": noise_seed, **({"with_image": True} if with_image else {})}
    keys = {feature: {"feature": described(feature), **reading} for feature in features}
    stored = {feature: entries.load(keys[feature]) for feature in features}
    missing = [feature for feature in features if stored[feature] is None]
    if missing:
        image = backbone.embed_images(video[:, :, :1], video.shape[2]) if with_image else None
        placed = latents.to(backbone.device)
        read = read_levels(backbone, placed, sigmas, missing, noise_seed, batch_size, image).to("cpu")
        for feature in missing:
            tensors = {**read.measured[feature], SHAPE: torch.tensor([read.num_frames, *read.grid])}
            stored[feature] = tensors
            entries.store(keys[feature], tensors)
        rank_zero_info(f"extracted the motion of {clip.name} for {len(sigmas)} guided steps")
    elif cache is not None:
        rank_zero_info(f"found the motion of {clip.name} in {cache.folder}; nothing was extracted")
    return latents, _targets({feature: tensors for feature, tensors in stored.items() if tensors is not None})


def described(feature: MotionFeature) -> dict[str, Any]:
    """Return a feature's class and settings, for keys."""
    return {"class": type(feature).__name__, **asdict(feature)}  # type: ignore[call-overload]  # features are dataclasses


def _targets(stored: dict[MotionFeature, dict[str, Tensor]]) -> list[MotionTarget]:
    """Return a target for each noise level."""
    first = next(iter(stored))
    num_frames, rows, columns = stored[first][SHAPE].tolist()
    measured = {
        feature: {name: tensor for name, tensor in tensors.items() if name != SHAPE}
        for feature, tensors in stored.items()
    }
    whole = MotionTarget(dict(measured), first, (rows, columns), num_frames)
    return [whole.rows([step]) for step in range(len(next(iter(measured[first].values()))))]


class _Entries:
    """The entries of a clip in a cache, or in none."""

    def __init__(self, cache: MotionCache | None, common: str, clip: str) -> None:
        self.cache, self.common, self.clip = cache, common, clip

    def load(self, what: dict[str, Any]) -> dict[str, Tensor] | None:
        return None if self.cache is None else self.cache.load(self._key(what))

    def store(self, what: dict[str, Any], tensors: dict[str, Tensor]) -> None:
        if self.cache is not None:
            self.cache.store(self._key(what), tensors, self.clip)

    def _key(self, what: dict[str, Any]) -> str:
        return hashlib.sha256(f"{self.common} {json.dumps(what, sort_keys=True)}".encode()).hexdigest()[:32]


def _common(backbone: Backbone, video: Tensor) -> str:
    """Return the hash of what all entries of a clip depend on."""
    settings = {"version": VERSION, "backbone": backbone.fingerprint(), "shape": list(video.shape)}
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    digest.update(video.numpy().tobytes())
    return digest.hexdigest()
