"""Measure a device's speed with a few seconds of work that resembles the planned run."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fastvmt_pl.backbones.backbone import Backbone
from fastvmt_pl.backbones.condition import Condition
from fastvmt_pl.backbones.request import Latents
from fastvmt_pl.backbones.untrained import untrained
from fastvmt_pl.planning.meter import TensorMeter

ENOUGH_SECONDS = 0.5
"""Seconds of a measurement that is long enough."""


@dataclass(frozen=True)
class Rates:
    """Floating-point operations per second.

    Attributes:
        prediction: The transformer, without gradient.
        gradient: The transformer, forward and backward.
        autoencoder: The autoencoder.
    """

    prediction: float
    gradient: float
    autoencoder: float


def calibrate(backbone: Backbone, condition: Condition, latent_shape: tuple[int, int, int, int]) -> Rates:
    """Time two blocks of the transformer and the autoencoder, with random weights, on the backbone's device.

    Each processes an increasing part of a video, until it takes half a second or has processed the whole.

    Args:
        backbone: The model; only its configs are used.
        condition: Conditions of jobs; the first one is used.
        latent_shape: Channels, frames, height and width of the video's latents.
    """
    sample, condition = untrained(backbone, 2, random=True), condition[:1]
    channels, frames, height, width = latent_shape
    fewest = frames // backbone.num_token_frames(frames)
    longer = [(channels, count, height, width) for count in _doubling(fewest, frames)]
    sides = zip(_doubling(8, height), _doubling(8, width), strict=False)
    larger = [(channels, min(2, frames), *side) for side in sides]

    def given(latents: Latents) -> Condition:
        _, channels, frames, height, width = latents.shape
        return condition.joined(backbone.family.blank_image((channels, frames, height, width)))

    def differentiate(latents: Latents) -> None:
        query, key = sample.query_key(latents.requires_grad_(), 500.0, given(latents), 1)
        (query.sum() + key.sum()).backward()

    predict = torch.no_grad()(lambda latents: sample.velocity(latents, 500.0, given(latents)))
    return Rates(
        prediction=_rate(predict, longer, sample.device),
        gradient=_rate(differentiate, longer, sample.device),
        autoencoder=_rate(sample.decode, larger, sample.device),
    )


def _doubling(first: int, last: int) -> Iterator[int]:
    while first < last:
        yield first
        first *= 2
    yield last


def _rate(run: Callable[[Tensor], object], shapes: Sequence[tuple[int, ...]], device: torch.device) -> float:
    for shape in shapes:
        latents = torch.randn(1, *shape, device=device)
        with TensorMeter() as meter, meter.reading() as reading:
            run(latents)
        begun = _now(device)
        run(latents)
        seconds = _now(device) - begun
        if seconds > ENOUGH_SECONDS:
            break
    return float(reading.flops / seconds)


def _now(device: torch.device) -> float:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()
