"""Step-skipping gradient optimisation: where consecutive gradients are alike, compute one and reuse it for a while."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from fastvmt_pl.errors import UserError
from fastvmt_pl.method.motion_transfer import MotionTransfer
from fastvmt_pl.method.optimizers import cosine_per_job

SMOOTHING = 0.5
"""Share of the newest measurement in the running estimate of how fast a gradient drifts."""

LEAST_COSINE = 0.01
"""What a lower cosine counts as: the two gradients have nothing in common, however long the way between them."""


@dataclass
class JobState:
    """Where a job's gradient stands.

    Attributes:
        age: Inner steps that the last gradient has served, the one it was computed for included; 0 if there is none.
        way: How far these steps have led, each as long as its learning rate is of the first inner step's.
        drift: Running estimate of how fast the gradient drifts: a step of the first one's length multiplies the cosine
            similarity to what the gradient was by ``exp(-drift)``; ``None`` until two gradients have been compared.
        num_computed: Gradients computed.
        num_reused: Inner steps that reused one.
    """

    age: int = 0
    way: float = 0.0
    drift: float | None = None
    num_computed: int = 0
    num_reused: int = 0


class GradientCache(Callback):
    """Computes a job's gradient now and then, and reuses it in between (FastVMT, section 3.4).

    At the paper's interval of 3 and 10 inner steps, gradients are computed at inner steps 0, 3, 6 and 9. A step in
    which all jobs reuse one runs no transformer. It touches the module through ``cached_gradients`` alone, and captures
    gradients as they are before clipping.

    With a budget, reuse is adaptive: in each guided step, the first two gradients of a job and further fresh ones tell
    how fast its gradient drifts as the latents move, and the last is reused, for at most ``interval`` steps, as long as
    a step is estimated to go astray by no more than the budget: the share of its cosine similarity to a fresh one that
    the gradient has lost by then, times the length of the step, as its learning rate is a share of the first inner
    step's. So a job whose gradient keeps its direction computes fewer than one whose gradient does not, and they are
    computed where steps are long. The similarity is taken to fall exponentially with the way.

    Logs ``gradients/computed`` and ``gradients/reused`` (counts so far), ``gradients/cosine``, the cosine similarity
    between a fresh gradient and the one before it in the same guided step (near 1, reusing loses little), and
    ``gradients/drift``, the share of it that a step of full length is estimated to cost; all averaged over jobs.

    Args:
        interval: Inner steps from one fresh gradient to the next, or with a budget at most; 1 reuses none.
        budget: How far a step may go astray by a reused gradient, as a share of the first step's length, between
            0 and 1; ``None`` fixes the interval.
        carry_over: Keep reusing the last gradient of a guided step in the next one, until a fresh one is due.

    Raises:
        ValueError: If the interval is below 1, the budget not between 0 and 1, or there is a budget without reuse.

    Example:
        .. code-block:: yaml

            trainer:
              callbacks:
                - class_path: fastvmt_pl.callbacks.GradientCache
                  init_args:
                    interval: 3
    """

    def __init__(self, interval: int = 3, budget: float | None = None, carry_over: bool = False) -> None:
        if interval < 1:
            raise UserError(f"interval is {interval}; use 1 (no reuse) or more (the paper's is 3)")
        if budget is not None and not 0 < budget < 1:
            raise UserError(
                f"budget is {budget}; use a share of a step's length, more than 0 and less than 1, or null for a fixed "
                "interval"
            )
        if budget is not None and interval == 1:
            raise UserError(
                "an interval of 1 reuses no gradient, so a budget has no effect; raise interval or leave it out"
            )
        self.interval, self.budget, self.carry_over = interval, budget, carry_over
        self._restart()

    def _restart(self) -> None:
        self.gradient: Tensor | None = None
        self.jobs: list[JobState] = []

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
        """Decide which jobs compute their gradient in this inner step."""
        assert isinstance(pl_module, MotionTransfer)
        if pl_module.inner_step == 0 and not self.carry_over:
            self.gradient = None  # of another noise level, so not to be reused nor compared with
            for job in self.jobs:
                job.drift = None
        pl_module.cached_gradients = {}
        if self.gradient is not None:
            kept, rate = self.gradient.to(pl_module.latents.device), pl_module.relative_rate
            reused = [number for number, job in enumerate(self.jobs) if self.may_reuse(job, rate)]
            pl_module.cached_gradients = {number: kept[number] for number in reused}

    def may_reuse(self, job: JobState, rate: float) -> bool:
        """Return whether a job's gradient may serve another inner step, of a learning rate relative to the first's."""
        if job.age >= self.interval:
            return False
        return self.budget is None or (
            job.drift is not None and rate * (1 - math.exp(-job.drift * job.way)) <= self.budget
        )

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Keep fresh gradients, and log."""
        assert isinstance(pl_module, MotionTransfer)
        assert pl_module.latents.grad is not None
        gradient = pl_module.latents.grad.detach().clone()
        last, self.gradient = self.gradient, gradient
        self.jobs = self.jobs or [JobState() for _ in gradient]
        fresh = [number for number in range(len(gradient)) if number not in pl_module.cached_gradients]
        renewed = [number for number in fresh if 0 < self.jobs[number].age <= pl_module.inner_step]
        if renewed:  # both gradients are of this guided step
            assert last is not None
            cosine = cosine_per_job(gradient[renewed], last.to(gradient.device)[renewed])
            pl_module.log("gradients/cosine", cosine.mean(), batch_size=len(renewed))
            for number, value in zip(renewed, cosine.tolist(), strict=True):
                self._measure(self.jobs[number], value)
            lost = [1 - math.exp(-job.drift) for job in self.jobs if job.drift is not None]
            pl_module.log("gradients/drift", sum(lost) / len(lost), batch_size=len(gradient))
        for number in fresh:
            self.jobs[number].num_computed += 1
            self.jobs[number].age, self.jobs[number].way = 0, 0.0
        for number in pl_module.cached_gradients:
            self.jobs[number].num_reused += 1
        for job in self.jobs:
            job.age += 1
            job.way += pl_module.relative_rate
        counts = {"gradients/computed": self.num_computed, "gradients/reused": self.num_reused}
        pl_module.log_dict(counts, batch_size=len(gradient))

    @staticmethod
    def _measure(job: JobState, cosine: float) -> None:
        """Update the estimate of how fast a job's gradient drifts, from two that lie some way apart."""
        found = -math.log(min(1.0, max(LEAST_COSINE, cosine))) / job.way
        job.drift = found if job.drift is None else SMOOTHING * found + (1 - SMOOTHING) * job.drift

    @property
    def num_computed(self) -> float:
        """Gradients computed so far, averaged over jobs."""
        return sum(job.num_computed for job in self.jobs) / max(1, len(self.jobs))

    @property
    def num_reused(self) -> float:
        """Inner steps so far that reused a gradient, averaged over jobs."""
        return sum(job.num_reused for job in self.jobs) / max(1, len(self.jobs))

    def state_dict(self) -> dict[str, Any]:
        """Return the gradients that are being reused, and where each job stands."""
        return {"gradient": self.gradient, "jobs": [asdict(job) for job in self.jobs]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint."""
        self.gradient, self.jobs = state_dict["gradient"], [JobState(**job) for job in state_dict["jobs"]]
