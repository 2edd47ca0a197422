"""Stop the training of a LoRA before the clip's appearance leaks."""

from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from fastvmt_pl.callbacks.lora_previews import LoraPreviews, Preview
from fastvmt_pl.callbacks.trainer_parts import find_callback
from fastvmt_pl.distillation.motion_distillation import MotionDistillation
from fastvmt_pl.errors import UserError


class StopAtLeak(Callback):
    """Stops training when previews show the clip's appearance, and restores the adapter of the preview before.

    List it after :class:`LoraPreviews` and before :class:`LoraExport`. It does not support ``ModelParallelStrategy``.

    Args:
        max_leak: Largest allowed ``preview/leak``.

    Raises:
        UserError: If ``max_leak`` is not between 0 and 1.

    Example:
        .. code-block:: yaml

            trainer:
              callbacks:
                - class_path: fastvmt_pl.callbacks.LoraPreviews
                  init_args:
                    prompts: [a panda on a beach]
                - class_path: fastvmt_pl.callbacks.StopAtLeak
    """

    def __init__(self, max_leak: float = 0.1) -> None:
        if not 0 <= max_leak <= 1:
            raise UserError(f"max_leak is {max_leak}; use a share from 0 to 1")
        self.max_leak = max_leak
        self._restart()

    def _restart(self) -> None:
        self.adapter: dict[str, Tensor] | None = None
        self.preview: Preview | None = None
        self.stopped = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Reset the state, and check that there are previews."""
        if find_callback(trainer, LoraPreviews) is None:
            raise UserError("StopAtLeak needs previews; add fastvmt_pl.callbacks.LoraPreviews before it")
        if isinstance(trainer.strategy, ModelParallelStrategy):
            raise UserError("StopAtLeak does not support ModelParallelStrategy; remove it, or use ddp")
        self._restart()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stay stopped when a stopped run is started again."""
        trainer.should_stop = trainer.should_stop or self.stopped

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare the last preview with the limit."""
        assert isinstance(pl_module, MotionDistillation)
        preview = self._previews(trainer).last
        if preview is None or preview == self.preview:
            return
        leaks = preview.scores.get("leak", 0.0) > self.max_leak
        if not trainer.strategy.reduce_boolean_decision(leaks, all=False):  # all processes must decide alike
            with pl_module.for_sampling():
                self.adapter = {name: p.detach().cpu().clone() for name, p in pl_module.adapter.items()}
            self.preview = preview
            return
        rank_zero_info(f"stopped: the previews' leak is above {self.max_leak}")
        trainer.should_stop = self.stopped = True

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the last adapter that did not leak; a run that was killed after its last epoch does this again."""
        assert isinstance(pl_module, MotionDistillation)
        if not self.stopped:
            return
        if self.adapter is None:
            raise RuntimeError(
                f"the first preview leaks more than {self.max_leak}; lower the learning rate or preview earlier, in a "
                "config for fastvmt train on the same data"
            )
        pl_module.set_adapter(self.adapter)
        self._previews(trainer).last = self.preview

    @staticmethod
    def _previews(trainer: Trainer) -> LoraPreviews:
        previews = find_callback(trainer, LoraPreviews)
        assert previews is not None  # checked in setup
        return previews

    def state_dict(self) -> dict[str, Any]:
        """Return the adapter of the last preview without a leak."""
        preview = None if self.preview is None else (str(self.preview.video), self.preview.scores)
        return {"adapter": self.adapter, "preview": preview, "stopped": self.stopped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        self.adapter, self.stopped = state_dict["adapter"], state_dict["stopped"]
        if state_dict["preview"] is not None:
            video, scores = state_dict["preview"]
            self.preview = Preview(Path(video), scores)
