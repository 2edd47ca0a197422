"""Step-skipping gradient optimisation: consecutive gradients are alike, so compute one and reuse it for a while."""

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn.functional import cosine_similarity

from fastvmt_pl.motion_transfer import MotionTransfer


class GradientCache(Callback):
    """Computes the gradient at every ``interval``-th inner step and reuses it in between (FastVMT, section 3.4).

    At the paper's interval of 3 and 10 inner steps, gradients are computed at inner steps 0, 3, 6 and 9. A step that
    reuses one runs no transformer. It touches the module through ``cached_gradient`` alone, and captures gradients as
    they are before clipping.

    Logs ``gradients/computed`` and ``gradients/reused`` (counts so far) and ``gradients/cosine``, the cosine similarity
    between a fresh gradient and the one before it, averaged over jobs: near 1, reusing loses little.

    Args:
        interval: Inner steps from one fresh gradient to the next; 1 reuses none.
        carry_over: Keep reusing the last gradient of a guided step in the next one, until a fresh one is due.

    Raises:
        ValueError: If the interval is below 1.

    Example:
        .. code-block:: yaml

            trainer:
              callbacks:
                - class_path: fastvmt_pl.callbacks.GradientCache
                  init_args:
                    interval: 3
    """

    def __init__(self, interval: int = 3, carry_over: bool = False) -> None:
        if interval < 1:
            raise ValueError(f"interval is {interval}; use 1 (no reuse) or more (the paper's is 3)")
        self.interval, self.carry_over = interval, carry_over
        self._restart()

    def _restart(self) -> None:
        self.num_computed, self.num_reused, self.age = 0, 0, 0
        self.gradient: Tensor | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Forget an earlier fit; a checkpoint is loaded after this."""
        self._restart()

    def on_train_batch_start(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Decide whether this inner step computes its gradient."""
        assert isinstance(pl_module, MotionTransfer)
        starts = pl_module.inner_step == 0 and not self.carry_over
        if starts or self.gradient is None or self.age >= self.interval:
            pl_module.cached_gradient = None
        else:
            pl_module.cached_gradient = self.gradient.to(pl_module.latents.device)

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Keep a fresh gradient, and log."""
        assert isinstance(pl_module, MotionTransfer)
        if pl_module.cached_gradient is not None:
            self.num_reused += 1
            self.age += 1
        else:
            assert pl_module.latents.grad is not None
            fresh = pl_module.latents.grad.detach().clone()
            if self.gradient is not None:
                last = self.gradient.to(fresh.device)
                cosine = cosine_similarity(fresh.flatten(1), last.flatten(1)).mean()
                pl_module.log("gradients/cosine", cosine, batch_size=len(fresh))
            self.gradient, self.age = fresh, 1
            self.num_computed += 1
        counts = {"gradients/computed": float(self.num_computed), "gradients/reused": float(self.num_reused)}
        pl_module.log_dict(counts, batch_size=len(pl_module.latents))

    def state_dict(self) -> dict[str, Any]:
        """Return the gradient that is being reused, its age and the counts."""
        return {
            "gradient": self.gradient,
            "age": self.age,
            "num_computed": self.num_computed,
            "num_reused": self.num_reused,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.gradient, self.age = state_dict["gradient"], state_dict["age"]
        self.num_computed, self.num_reused = state_dict["num_computed"], state_dict["num_reused"]
