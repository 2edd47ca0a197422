"""The finish of a sampling: its last steps, by a step-distilled LoRA."""

from collections.abc import Mapping
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from fastvmt_pl.errors import UserError
from fastvmt_pl.method.sampling import flow_matching_sigmas


@dataclass(frozen=True)
class Finish:
    """The steps after the guided ones, in place of the others: few large ones, by LoRAs that were distilled for that.

    Guided steps run on the plain model with classifier-free guidance, so its motion is what guidance shapes. The noise
    levels of the finish are spaced by its own shift, from the level at which the guided steps end to 0.

    Args:
        loras: Weight of each LoRA that is on in the finish, by its folder or file.
        num_steps: Denoising steps.
        guidance_scale: Classifier-free guidance scale; distilled LoRAs need none, so 1 turns it off.
        shift: Shift of the noise levels, best that with which the LoRA was distilled; ``None`` is the sampling's.

    Raises:
        UserError: If there is no LoRA, or a number is out of range.
    """

    loras: Mapping[str, float]
    num_steps: int = 4
    guidance_scale: float = 1.0
    shift: float | None = None

    def __post_init__(self) -> None:
        """Check what needs no file to be checked."""
        if not self.loras:
            raise UserError("the finish has no LoRA; give it one that was distilled for few steps, or leave it out")
        if self.num_steps < 1:
            raise UserError(f"the finish has num_steps {self.num_steps}; use at least 1")
        if self.guidance_scale < 1:
            raise UserError(f"the finish has guidance_scale {self.guidance_scale}; use 1 (off) or more")
        if self.shift is not None and self.shift <= 0:
            raise UserError(f"the finish has shift {self.shift}; use a positive number")

    def sigmas(self, start: float, shift: float) -> Float[Tensor, "steps_and_end"]:
        """Return its noise levels, from where it starts to 0.

        >>> Finish({"few_steps.safetensors": 1.0}, num_steps=2, shift=3.0).sigmas(0.75, shift=1.0).tolist()
        [0.75, 0.5, 0.0]

        Args:
            start: The noise level at which the guided steps end.
            shift: Shift of the sampling.
        """
        shift = self.shift or shift
        return flow_matching_sigmas(self.num_steps, shift, start / (shift - (shift - 1) * start))
