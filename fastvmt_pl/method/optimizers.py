"""An optimiser for latents, and what it shares with clipping and reuse: gradients of each job by itself."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import cosine_similarity
from torch.optim import Optimizer

from fastvmt_pl.errors import UserError

Gradient = Float[Tensor, "jobs *axes"]
"""Gradients of latents, finite, and of any size that fp32 can hold."""


class NormalizedGradientDescent(Optimizer):
    """Steps along the gradient, scaled to unit root mean square over each job.

    AdamW's first steps are close to the gradient's sign, so they move entries whose gradient is mere noise as far as
    those that matter; a scaled gradient keeps the proportions. The first axis of a parameter counts jobs.

    Args:
        params: Latents, ``[jobs, ...]``.
        lr: Root mean square of a job's change in one step, in units of the latents.
        momentum: Share of the last step's direction kept in the next.

    Raises:
        ValueError: If the rate is not positive or the momentum is not in 0 to 1.
    """

    def __init__(self, params: Iterable[Tensor], lr: float = 0.05, momentum: float = 0.0) -> None:
        if lr <= 0 or not 0 <= momentum < 1:
            raise UserError(f"lr is {lr} and momentum {momentum}; use a positive rate and a momentum from 0 to below 1")
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step, and return what the closure returns."""
        result = None
        if closure is not None:
            with torch.enable_grad():
                result = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                direction = scale_per_job(parameter.grad)
                if group["momentum"]:
                    state = self.state[parameter]
                    direction = direction + group["momentum"] * state.get("direction", torch.zeros_like(direction))
                    state["direction"] = direction
                parameter.sub_(direction, alpha=group["lr"])
        return result


def scale_per_job(gradient: Gradient) -> Gradient:
    """Scale each job's gradient to unit root mean square; a zero gradient stays zero."""
    unit, _ = squarable(gradient)
    size = _per_job(unit.pow(2).flatten(1).mean(1).sqrt(), unit)
    return unit / size.where(size > 0, 1.0)


def clip_per_job(gradient: Gradient, max_norm: float) -> Gradient:
    """Scale down the gradient of each job whose norm is above a limit."""
    units = zip(*squarable(gradient), strict=True)
    return torch.stack([unit * (max_norm / (unit.norm() + 1e-6)).clamp(max=scale) for unit, scale in units])


def cosine_per_job(gradient: Gradient, other: Gradient) -> Float[Tensor, "jobs"]:
    """Return the cosine similarity of two gradients of each job, ``[jobs]``; with a zero gradient it is 0."""
    unit, other_unit = (squarable(each)[0].flatten(1) for each in (gradient, other))
    return cosine_similarity(unit, other_unit, eps=torch.finfo(gradient.dtype).tiny)  # PyTorch's eps is a norm of 1e-8


def squarable(gradient: Gradient) -> tuple[Gradient, Tensor]:
    """Split each job's gradient into one whose squares fp32 can hold, and its scale.

    The scale is 1 within 1e-12 to 1e12, so that ordinary gradients are not rounded.

    Returns:
        The scaled gradient, and the scales, ``[jobs, 1, ...]``.
    """
    largest = gradient.abs().flatten(1).amax(1)
    ordinary = (largest == 0) | ((largest > 1e-12) & (largest < 1e12))
    scale = _per_job(largest.where(~ordinary, 1.0), gradient)
    return gradient / scale, scale


def _per_job(values: Float[Tensor, "jobs"], gradient: Gradient) -> Tensor:
    return values.view(-1, *[1] * (gradient.ndim - 1))
