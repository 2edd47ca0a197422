"""Step-skipping gradient optimisation: consecutive gradients are similar, so one is computed and then reused."""

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
"""Weight of the newest measurement in the running estimate of a gradient's drift."""

LEAST_COSINE = 0.01
"""Lower cosines count as this one: the two gradients have nothing in common, however far apart they are."""


@dataclass
class JobState:
    """The reuse of a job's gradient.

    Attributes:
        age: Inner steps that the last gradient has served, including the one it was computed for; 0 without a gradient.
        distance: Sum of the learning rates of these steps, each as a share of the first inner step's.
        drift: Running estimate of the gradient's drift. Over a distance of 1, the cosine similarity between the old and
            the new gradient falls by the factor ``exp(-drift)``. ``None`` until two gradients have been compared.
        num_computed: Gradients computed.
        num_reused: Inner steps that reused one.
    """

    age: int = 0
    distance: float = 0.0
    drift: float | None = None
    num_computed: int = 0
    num_reused: int = 0

    def compare(self, cosine: float) -> None:
        """Update the drift by the cosine similarity of two gradients that are ``distance`` apart."""
        found = -math.log(min(1.0, max(LEAST_COSINE, cosine))) / self.distance
        self.drift = found if self.drift is None else SMOOTHING * found + (1 - SMOOTHING) * self.drift


class GradientCache(Callback):
    """Computes a job's gradient in some inner steps, and reuses it in the others (FastVMT, section 3.4).

    At the paper's interval of 3 and 10 inner steps, gradients are computed at inner steps 0, 3, 6 and 9. A step in
    which all jobs reuse one runs no transformer. The callback sets ``cached_gradients`` of the module and changes
    nothing else. It stores gradients as they are before clipping.

    With a budget, reuse is adaptive. In each guided step, the fresh gradients of a job give an estimate of its drift. A
    gradient is reused, for at most ``interval`` steps, while ``rate * (1 - exp(-drift * distance)) <= budget``. Here
    ``rate`` is the step's learning rate as a share of the first inner step's, and ``distance`` the sum of these rates
    since the gradient was computed. So the cosine similarity is assumed to fall exponentially with distance, and the
    budget bounds the error of a step as a share of the first step's length.

    Logs ``gradients/computed`` and ``gradients/reused`` (counts so far), ``gradients/cosine``, the cosine similarity
    between a fresh gradient and the last one (near 1, reuse loses little), and ``gradients/drift``, which is
    ``1 - exp(-drift)``. All are averaged over jobs. Without ``carry_over``, both gradients are of the same guided step.

    Args:
        interval: Inner steps from one fresh gradient to the next; with a budget, the largest number of them. 1 reuses
            no gradient.
        budget: Largest error of a step by a reused gradient, as a share of the first step's length, between 0 and 1;
            ``None`` fixes the interval.
        carry_over: Keep reusing the last gradient of a guided step in the next one, until a fresh one is due. Fused
            guidance, which has one inner step, reuses no gradient otherwise.

    Raises:
        UserError: If the interval is below 1, the budget is not between 0 and 1, or a budget comes with interval 1.

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
                "an interval of 1 reuses no gradient, so a budget has no effect; raise interval or remove budget"
            )
        self.interval, self.budget, self.carry_over = interval, budget, carry_over
        self._restart()

    def _restart(self) -> None:
        self.gradient: Tensor | None = None
        self.jobs: list[JobState] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Reset the state; a checkpoint is loaded after this.

        Raises:
            UserError: If a budget comes with fused guidance.
        """
        assert isinstance(pl_module, MotionTransfer)
        if self.budget is not None and pl_module.guidance == "fused":
            raise UserError(
                f"budget is {self.budget}, and fused guidance has one gradient a guided step, so there is no drift to "
                "measure; set it to null"
            )
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
            self.gradient = None  # its noise level differs, so it is not reused or compared
            for job in self.jobs:
                job.drift = None
        pl_module.cached_gradients = {}
        if self.gradient is not None:
            kept, rate = self.gradient.to(pl_module.latents.device), pl_module.relative_rate
            reused = [number for number, job in enumerate(self.jobs) if self.may_reuse(job, rate)]
            pl_module.cached_gradients = {number: kept[number] for number in reused}

    def may_reuse(self, job: JobState, rate: float) -> bool:
        """Return whether a job may reuse its gradient in a step of this learning rate, as a share of the first."""
        if job.age >= self.interval:
            return False
        return self.budget is None or (
            job.drift is not None and rate * (1 - math.exp(-job.drift * job.distance)) <= self.budget
        )

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """Store fresh gradients, and log."""
        assert isinstance(pl_module, MotionTransfer)
        assert pl_module.latents.grad is not None
        gradient = pl_module.latents.grad.detach().clone()
        last, self.gradient = self.gradient, gradient
        self.jobs = self.jobs or [JobState() for _ in gradient]
        fresh = [number for number in range(len(gradient)) if number not in pl_module.cached_gradients]
        oldest = math.inf if self.carry_over else pl_module.inner_step
        renewed = [number for number in fresh if 0 < self.jobs[number].age <= oldest]
        if renewed:
            assert last is not None
            cosine = cosine_per_job(gradient[renewed], last.to(gradient.device)[renewed])
            pl_module.log("gradients/cosine", cosine.mean(), batch_size=len(renewed))
            for number, value in zip(renewed, cosine.tolist(), strict=True):
                if self.jobs[number].age <= pl_module.inner_step:  # both are of this guided step
                    self.jobs[number].compare(value)
            lost = [1 - math.exp(-job.drift) for job in self.jobs if job.drift is not None]
            if lost:
                pl_module.log("gradients/drift", sum(lost) / len(lost), batch_size=len(gradient))
        for number in fresh:
            self.jobs[number].num_computed += 1
            self.jobs[number].age, self.jobs[number].distance = 0, 0.0
        for number in pl_module.cached_gradients:
            self.jobs[number].num_reused += 1
        for job in self.jobs:
            job.age += 1
            job.distance += pl_module.relative_rate
        counts = {"gradients/computed": self.num_computed, "gradients/reused": self.num_reused}
        pl_module.log_dict(counts, batch_size=len(gradient))

    @property
    def num_computed(self) -> float:
        """Gradients computed so far, averaged over jobs."""
        return sum(job.num_computed for job in self.jobs) / max(1, len(self.jobs))

    @property
    def num_reused(self) -> float:
        """Inner steps so far that reused a gradient, averaged over jobs."""
        return sum(job.num_reused for job in self.jobs) / max(1, len(self.jobs))

    def state_dict(self) -> dict[str, Any]:
        """Return the current gradients, and the state of each job."""
        return {"gradient": self.gradient, "jobs": [asdict(job) for job in self.jobs]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state of a checkpoint; earlier versions called the distance ``way``."""
        names = {"way": "distance"}
        jobs = [{names.get(name, name): value for name, value in job.items()} for job in state_dict["jobs"]]
        self.gradient, self.jobs = state_dict["gradient"], [JobState(**job) for job in jobs]
