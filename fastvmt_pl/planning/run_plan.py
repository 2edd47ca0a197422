"""The cost of a run: memory by part and by step, floating-point operations, and time."""

from dataclasses import dataclass
from typing import NamedTuple

from torch import nn

from fastvmt_pl.method.motion_transfer import MotionTransfer
from fastvmt_pl.planning.calibration import Rates
from fastvmt_pl.planning.meter import Reading, stored_tensors
from fastvmt_pl.planning.rehearsal import Rehearsal
from fastvmt_pl.planning.workload import Workload


class Size(NamedTuple):
    """The size of a model."""

    num_parameters: int
    num_bytes: int


@dataclass(frozen=True)
class Step:
    """One kind of step of a run.

    Attributes:
        name: Its name.
        reading: Its cost, once.
        num_times: How often the whole run takes it.
        work: The rate that gives its speed, a field of :class:`~fastvmt_pl.planning.calibration.Rates`.
    """

    name: str
    reading: Reading
    num_times: int
    work: str

    def seconds(self, rates: Rates) -> float:
        """Return its seconds in the whole run."""
        rate: float = getattr(rates, self.work)
        return self.num_times * self.reading.flops / rate


@dataclass(frozen=True)
class Plan:
    """The cost of a run.

    Attributes:
        workload: The shape of the run.
        sizes: Parameters and bytes of the transformer, the autoencoder and the text encoder.
        tokens: Latent frames, and rows and columns of tokens in each.
        steps: The steps of the run, in order.
        checkpointing: Whether the transformer checkpoints its activations.
        rehearsal: The rehearsal that was measured.
    """

    workload: Workload
    sizes: dict[str, Size]
    tokens: tuple[int, int, int]
    steps: list[Step]
    checkpointing: bool
    rehearsal: Rehearsal

    @property
    def largest(self) -> Step:
        """The step with the highest peak of memory."""
        return max(self.steps, key=lambda step: step.reading.peak)

    @property
    def peak(self) -> int:
        """Largest number of bytes of tensors."""
        return self.largest.reading.peak

    @property
    def num_jobs(self) -> int:
        """Jobs of the whole run."""
        return self.workload.num_batches * len(self.workload.prompts)

    @property
    def prediction_flops(self) -> float:
        """Floating-point operations of one forward pass of the transformer for one job."""
        module = self.rehearsal.module
        first = module if module.finish is None or module.num_guided_steps else module.finish
        predictions = 1 if first.guidance_scale == 1 else 2
        return self.rehearsal.denoising.flops / (predictions * len(self.workload.prompts))

    def forward_equivalents(self, step: Step) -> float:
        """Return a step's cost per job, in forward passes of the transformer."""
        return step.num_times * step.reading.flops / self.prediction_flops / self.num_jobs


def _size_of(part: nn.Module) -> Size:
    stored = (each for parameter in part.parameters() for each in stored_tensors(parameter))
    return Size(sum(each.numel() for each in part.parameters()), sum(each.nbytes for each in stored))


def plan(module: MotionTransfer, workload: Workload) -> Plan:
    """Plan a run from the model's configs, without downloading or reading weights.

    The real code runs on tensors without data, so all settings have their real effect. Memory is that of tensors and of
    the buffers of a CPU's convolutions; a GPU's driver and kernels need more.

    Args:
        module: The module, with its backbone.
        workload: The shape of the run.

    Raises:
        UserError: If the module or its backbone cannot do this.
    """
    workload.check(module)
    rehearsal = Rehearsal(module, workload)
    backbone = rehearsal.module.backbone
    checkpointing: bool = backbone.lora_model().is_gradient_checkpointing
    batches, jobs = workload.num_batches, workload.num_batches * len(workload.prompts)
    extractions = -(-workload.num_levels // workload.extraction_batch)
    videos, guided = 2 if module.baseline else 1, batches * workload.num_gradients
    ended = [] if rehearsal.ending is None else [Step("guide: end the step", rehearsal.ending, guided, "prediction")]
    plain = module.num_steps if rehearsal.finish is None else module.num_guided_steps
    others = batches * plain * videos - sum(step.num_times for step in ended)
    last = batches * (module.num_steps - plain) * videos
    steps = [
        Step("embed the prompts", rehearsal.embedding, batches, "prediction"),
        Step("encode a clip", rehearsal.encoding, workload.num_clips, "autoencoder"),
        Step("read its motion", rehearsal.extraction, workload.num_clips * extractions, "prediction"),
        Step("guide: a gradient", rehearsal.gradient[checkpointing], guided, "gradient"),
        *ended,
        Step("denoise: a step", rehearsal.denoising, others, "prediction"),
        *([] if rehearsal.finish is None else [Step("finish: a step", rehearsal.finish, last, "prediction")]),
        Step("decode a video", rehearsal.decoding, jobs * videos, "autoencoder"),
    ]
    return Plan(
        workload=workload,
        sizes={name: _size_of(part) for name, part in backbone.parts().items()},
        tokens=(
            backbone.num_token_frames(workload.latent_shape(module)[1]),
            *backbone.token_grid(rehearsal.module.latents),
        ),
        steps=steps,
        checkpointing=checkpointing,
        rehearsal=rehearsal,
    )
