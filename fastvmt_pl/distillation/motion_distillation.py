"""Distil a motion into a LoRA: train an adapter of the frozen backbone on videos with that motion."""

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Literal

import torch
from diffusers.training_utils import EMAModel
from jaxtyping import Float
from lightning import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

from fastvmt_pl.backbones.backbone import Backbone
from fastvmt_pl.backbones.condition import Condition
from fastvmt_pl.backbones.request import Latents
from fastvmt_pl.distillation.velocity_target import (
    VelocityTarget,
    large_steps,
    noised_videos,
    spread,
    teacher_steps,
)
from fastvmt_pl.errors import UserError
from fastvmt_pl.lora import Adapter, add_lora, check_numbers, read_adapter, remove_lora, without_lora
from fastvmt_pl.method.transfer_jobs import DistillationBatch
from fastvmt_pl.method.video_sampler import NonFiniteError

Objective = Literal["flow_matching", "trajectory"]
Expert = Literal["high_noise", "low_noise"]


class MotionDistillation(LightningModule):
    """Trains a LoRA of a video model on videos that have a motion in common.

    With ``flow_matching`` the adapted model learns to denoise the videos (Lipman et al., arXiv 2210.02747). With
    ``trajectory`` it learns the teacher's sampling: at the teacher's noisy latents it predicts, after classifier-free
    guidance, the velocity to the next ones, which includes the teacher's motion guidance. With ``few_steps``, these are
    the large steps of a sampling in so few steps without guidance scale (progressive distillation, Salimans and Ho,
    arXiv 2202.00512, in one go).

    Each video's noise, noise level and prompt dropout depend only on its number in the training
    (:attr:`~fastvmt_pl.method.transfer_jobs.DistillationBatch.draws`), not on processes or restarts. Noise levels are
    spread evenly over the draws instead of drawn independently, which lowers the variance of the gradient.

    A checkpoint holds the adapter, the optimiser and the position, but not the backbone. Runs on one device, under DDP,
    and under ``ModelParallelStrategy``, which also shards the frozen weights (FSDP2).

    Args:
        backbone: The video model.
        expert: The adapted transformer of a model with one for high noise and one for low noise; ``None`` is both.
        rank: Rank of each update.
        alpha: The update is scaled by ``alpha / rank``; ``None`` is the rank.
        dropout: Dropout probability of the inputs of each update.
        targets: Endings of the names of the layers that get a LoRA; ``None`` is the backbone's attention projections.
        objective: The training objective.
        few_steps: Denoising steps that sampling with the LoRA is to need, without guidance scale; for trajectories.
            ``None`` needs as many as the teacher, and its guidance scale.
        optimizer: Makes the optimiser of the adapter.
        num_warmup_steps: Number of steps in which the learning rate rises to its value.
        shift: Shift of the training noise levels; best set to that of the sampling.
        prompt_dropout: Share of the videos trained with the negative prompt instead of their own, so that
            classifier-free guidance does not steer away from the motion.
        negative_prompt: Negative prompt of the sampling; for trajectories, that of the teacher.
        ema_decay: Decay of the moving average of the adapter that is sampled from and exported; ``None`` keeps none.
        seed: Seed of the adapter's initial weights and of all noise.

    Raises:
        UserError: If a setting is out of range.
    """

    adapter: nn.ParameterDict
    """The adapter's weights, shared with the backbone."""
    num_batches: int
    """Number of batches that this process has trained on."""
    problems: dict[str, None]
    """Reasons for samples that could not be read so far, each once."""
    negative_condition: Condition

    def __init__(
        self,
        backbone: Backbone,
        expert: Expert | None = None,
        rank: int = 16,
        alpha: float | None = None,
        dropout: float = 0.0,
        targets: tuple[str, ...] | None = None,
        objective: Objective = "flow_matching",
        few_steps: int | None = None,
        optimizer: OptimizerCallable = partial(torch.optim.AdamW, lr=1e-3, weight_decay=0.0),
        num_warmup_steps: int = 10,
        shift: float = 7.0,
        prompt_dropout: float = 0.1,
        negative_prompt: str = "",
        ema_decay: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_numbers(rank, alpha, dropout)
        if num_warmup_steps < 0:
            raise UserError(f"num_warmup_steps is {num_warmup_steps}; use 0 or more")
        if few_steps is not None and (few_steps < 1 or objective != "trajectory"):
            raise UserError(f"few_steps is {few_steps}; use 1 or more, with the objective trajectory, or null")
        if shift <= 0:
            raise UserError(f"shift is {shift}; use a positive number, the one that videos are sampled with")
        if not 0 <= prompt_dropout < 1:
            raise UserError(f"prompt_dropout is {prompt_dropout}; use a share from 0 to below 1")
        if ema_decay is not None and not 0 <= ema_decay < 1:
            raise UserError(f"ema_decay is {ema_decay}; use 0 to below 1, such as 0.99, or null")
        names = backbone.family.expert_names
        if expert is not None and expert not in names:
            raise UserError(f"expert is {expert}, and {backbone.name} has one transformer; leave it out")
        self.experts = tuple(number for number, name in enumerate(names) if expert in (None, name))
        self.check_backbone(backbone)
        self.backbone = backbone
        self.lora: dict[str, Any] = {
            "targets": backbone.lora_targets if targets is None else targets,
            "rank": rank,
            "alpha": alpha,
            "dropout": dropout,
        }
        optimizer([nn.Parameter(torch.zeros(1))])  # raises for bad settings now, not after minutes
        self.objective, self.few_steps = objective, few_steps
        self.optimizer, self.num_warmup_steps = optimizer, num_warmup_steps
        self.shift, self.prompt_dropout, self.negative_prompt = shift, prompt_dropout, negative_prompt
        self.ema_decay, self.seed = ema_decay, seed
        self.adapter = nn.ParameterDict()
        self.ema: EMAModel | None = None
        self.restart()

    @staticmethod
    def check_backbone(backbone: Backbone) -> None:
        """Raise ``UserError`` if the frozen weights are quantised."""
        if backbone.quantization is not None:
            raise UserError(f"quantization is {backbone.quantization}; set it to null to train a LoRA")
        if backbone.offload_blocks:
            raise UserError("offload_blocks is true; set it to false to train a LoRA, whose gradient needs all blocks")

    def restart(self) -> None:
        """Reset the state of an earlier fit."""
        self.num_batches, self.problems = 0, {}

    def setup(self, stage: str) -> None:
        """Embed the negative prompt.

        Raises:
            UserError: If the frozen weights are quantised.
        """
        self.check_backbone(self.backbone)
        self.restart()
        self.backbone.to(self.trainer.strategy.root_device)
        self.negative_condition = self.backbone.embed_prompts([self.negative_prompt])
        self.backbone.release_text_encoder()

    def configure_model(self) -> None:
        """Add a new adapter, and shard the model under ``ModelParallelStrategy``."""
        strategy = self.trainer.strategy
        if not isinstance(strategy, ModelParallelStrategy):
            self.attach_adapter()
            return
        if self.ema_decay is not None:
            raise UserError("ema_decay does not go with ModelParallelStrategy; set it to null")
        if len(self.experts) > 1:
            raise UserError(
                f"expert is null, which trains both transformers of {self.backbone.name}, and that does not go with "
                "ModelParallelStrategy; train each by itself: set it to high_noise or low_noise"
            )
        self.attach_adapter(strategy.device_mesh["data_parallel"])

    def attach_adapter(self, mesh: DeviceMesh | None = None) -> None:
        """Add a new adapter to the backbone, the same in every process.

        Args:
            mesh: Processes that the transformer is sharded over, including its frozen weights (FSDP2).
        """
        device = self.backbone.device
        if mesh is not None:
            self.backbone.to("cpu")  # sharding moves it block by block, so it need not fit on one device
        adapted = {prefix: self.backbone.lora_model(expert) for expert, prefix in self.prefixes.items()}
        trainable: dict[str, nn.Parameter] = {}
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):
            torch.manual_seed(self.seed)
            for prefix, transformer in adapted.items():
                remove_lora(transformer)
                add_lora(transformer, **self.lora, names=self.backbone.family.layer_names)
                if mesh is not None:
                    for part in (*self.backbone.family.blocks(transformer), transformer):
                        fully_shard(part, mesh=mesh)
                trainable |= {prefix + name: p for name, p in transformer.named_parameters() if p.requires_grad}
        # Sharded weights, and those of two transformers used by one batch, stay on the device.
        self.backbone.hold(self.experts if mesh is not None or len(self.experts) > 1 else ())
        if mesh is not None:
            self.backbone.to(device)
        self.adapter = nn.ParameterDict({name.replace(".", "/"): p for name, p in trainable.items()})
        self._start_average()

    def _start_average(self) -> None:
        if self.ema_decay is not None:
            self.ema = EMAModel(self.adapter.values(), decay=self.ema_decay)

    @property
    def prefixes(self) -> dict[int, str]:
        """Prefix of the weights of each adapted transformer; empty if the model has only one."""
        names = self.backbone.family.expert_names
        return {expert: f"{names[expert]}." if names[expert] else "" for expert in self.experts}

    def read_adapters(self) -> dict[int, Adapter]:
        """Return the adapter of each adapted transformer, by its number. All processes have to call this."""
        return {expert: read_adapter(self.backbone.lora_model(expert)) for expert in self.experts}

    @contextmanager
    def without_adapters(self) -> Iterator[None]:
        """Disable all adapters within the block."""
        with ExitStack() as stack:
            for expert in self.experts:
                stack.enter_context(without_lora(self.backbone.lora_model(expert)))
            yield

    @torch.no_grad()
    def set_adapter(self, weights: Mapping[str, Tensor]) -> None:
        """Set the adapter's weights, and restart the moving average."""
        for name, parameter in self.adapter.items():
            parameter.copy_(weights[name])
        self._start_average()

    def training_step(self, batch: DistillationBatch, batch_index: int) -> Tensor:
        """Return the mean squared error of the predicted velocity."""
        self.num_batches += 1
        self._report(batch.problems)
        if self.lora["dropout"]:
            torch.manual_seed(int(batch.draws[0]))  # dropout depends on the position, too
        latents, sigma, velocity = self.target(batch)
        without_prompt = spread(batch.draws, self.seed, math.sqrt(2)) < self.prompt_dropout
        condition = batch.condition.where(~without_prompt, self._negative(batch))
        predicted = self.backbone.velocity(latents, 1000 * sigma, condition)
        loss: Tensor = (predicted - condition.stilled(velocity)).pow(2).mean()
        if len(self.experts) > 1:  # a batch may use only one of them, but DDP waits for the gradients of all
            loss = loss + 0 * sum(each.sum() for each in self.adapter.values())
        if not loss.isfinite():
            raise NonFiniteError(f"the loss is {loss.item()} after {self.num_batches} batches; lower the learning rate")
        self.log("loss", loss.detach(), prog_bar=True, batch_size=len(batch.draws))
        self.log("problems", float(len(self.problems)), batch_size=len(batch.draws))
        return loss

    def target(self, batch: DistillationBatch) -> VelocityTarget:
        """Return what the objective wants to be predicted of a batch."""
        if self.objective == "flow_matching":
            return noised_videos(batch, self.seed, self.shift, self.noise_levels)
        if self.few_steps is not None:
            return large_steps(batch, self.seed, self.noise_levels, self.few_steps, self.shift)

        @torch.no_grad()
        def negative_velocity(latents: Latents, sigma: Float[Tensor, "videos"]) -> Latents:
            return self.backbone.velocity(latents, 1000 * sigma, self._negative(batch))

        return teacher_steps(batch, self.seed, self.noise_levels, negative_velocity)

    def _negative(self, batch: DistillationBatch) -> Condition:
        """Return the negative condition of each video, with the video's own image if it has one."""
        return batch.condition.joined(self.negative_condition.expand(len(batch.draws)))

    @property
    def noise_levels(self) -> tuple[float, float]:
        """The lowest and highest noise level of the adapted transformers."""
        levels = [self.backbone.family.noise_levels(expert) for expert in self.experts]
        return min(lowest for lowest, _ in levels), max(highest for _, highest in levels)

    def _report(self, problems: list[str]) -> None:
        for problem in problems:
            if problem not in self.problems:
                self.problems[problem] = None
                warnings.warn(f"skipped: {problem}", stacklevel=2)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Return the optimiser of the adapter, with a warm-up of the learning rate."""
        optimizer = self.optimizer(self.adapter.values())

        def rate(step: int) -> float:
            return min(1.0, (step + 1) / (self.num_warmup_steps + 1))

        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Take a step, and update the moving average."""
        super().optimizer_step(*args, **kwargs)
        if self.ema is not None:
            self.ema.step(self.adapter.values())

    @property
    def batch_size(self) -> int:
        """Videos per optimiser step, over all processes."""
        size: int = self.trainer.datamodule.batch_size  # type: ignore[attr-defined]
        return size * self.trainer.world_size * self.trainer.accumulate_grad_batches

    @contextmanager
    def for_sampling(self) -> Iterator[None]:
        """Replace the adapter by its moving average, if there is one, within the block."""
        if self.ema is None:
            yield
            return
        self.ema.store(self.adapter.values())
        self.ema.copy_to(self.adapter.values())
        try:
            yield
        finally:
            self.ema.restore(self.adapter.values())

    def on_train_start(self) -> None:
        """Put the adapted transformers into training mode if dropout is used."""
        for expert in self.experts:
            self.backbone.lora_model(expert).train(self.lora["dropout"] > 0)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the position and the moving average."""
        ema = None if self.ema is None else self.ema.state_dict()
        shape = tuple(self.trainer.datamodule.shape)  # type: ignore[attr-defined]
        state = {"num_batches": self.num_batches, "batch_size": self.batch_size, "shape": shape, "ema": ema}
        checkpoint["motion_distillation"] = state

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the position and the moving average."""
        state = checkpoint["motion_distillation"]
        self.num_batches = state["num_batches"]
        if self.ema is not None and state["ema"] is not None:
            self.ema.load_state_dict(state["ema"])
            self.ema.to(next(iter(self.adapter.values())).device)
