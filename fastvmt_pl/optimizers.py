"""An optimiser for latents."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from fastvmt_pl.errors import UserError


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


def scale_per_job(gradient: Tensor) -> Tensor:
    """Scale each job's gradient to unit root mean square; a zero gradient stays zero."""
    size = gradient.pow(2).flatten(1).mean(1).sqrt()
    safe = torch.where(size > 0, size, torch.ones_like(size))
    return gradient / safe.view(-1, *[1] * (gradient.ndim - 1))
