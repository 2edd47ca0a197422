"""Progress of a transfer: guided step, inner step, loss and time left."""

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from fastvmt_pl.method.motion_transfer import MotionTransfer


class TransferProgress(ProgressBar):
    """Progress bars of the inner steps, with the last loss, and of the unguided steps.

    Without a terminal, it prints a line for each guided step and for each denoised video.
    """

    def __init__(self) -> None:
        super().__init__()
        self.console = Console(stderr=True)
        self.progress: Progress | None = None
        self.loss = float("nan")

    def disable(self) -> None:
        """Show nothing; Lightning calls this in processes other than the first."""
        self.console.quiet = True

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the bars at the current position; a resumed run may only have unguided steps left."""
        assert isinstance(pl_module, MotionTransfer)
        pl_module.on_denoised.append(lambda: self._show_rest(pl_module))
        if self.console.is_terminal:
            columns = [
                TextColumn("{task.description}"),
                BarColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
            ]
            self.progress = Progress(*columns, console=self.console)
            total = pl_module.num_guided_steps * pl_module.num_inner_steps
            self.guided = self.progress.add_task("guided", total=total, completed=self._done(pl_module))
            self.rest = self.progress.add_task("unguided", total=self._num_unguided(pl_module), start=False)
            self.progress.start()

    def on_train_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
    ) -> None:
        """Move the bar."""
        assert isinstance(pl_module, MotionTransfer)
        if len(pl_module.cached_gradients) < len(pl_module.latents):
            self.loss = float(trainer.callback_metrics.get("loss", self.loss))
        where = f"guided step {pl_module.step + 1}/{pl_module.num_guided_steps}"
        inner = f"inner step {pl_module.inner_step}/{pl_module.num_inner_steps}"
        if self.progress is not None:
            self.progress.update(
                self.guided, completed=self._done(pl_module), description=f"{where} {inner} loss {self.loss:.4g}"
            )
        elif pl_module.inner_step == pl_module.num_inner_steps:
            self.console.print(f"{where} loss {self.loss:.4g}", highlight=False)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the bar of the unguided steps."""
        assert isinstance(pl_module, MotionTransfer)
        if self.progress is not None:
            self.progress.start_task(self.rest)
        else:
            rest = pl_module.num_steps - pl_module.num_guided_steps
            also = f" and the unguided baseline of {pl_module.num_steps} steps" if pl_module.baseline else ""
            self.console.print(f"denoising the last {rest} steps{also}", highlight=False)

    def _show_rest(self, module: MotionTransfer) -> None:
        """Move the bar of the unguided steps; without a terminal, print a line when a video is denoised."""
        if self.progress is not None:
            self.progress.start_task(self.rest)
            done = module.step - module.num_guided_steps + module.baseline_step
            which = "baseline" if module.baseline_step else "output"
            self.progress.update(self.rest, completed=done, description=f"denoising the {which}", refresh=True)
        elif module.baseline_step == module.num_steps or (not module.baseline_step and module.step == module.num_steps):
            self.console.print(f"denoised the {'baseline' if module.baseline_step else 'output'}", highlight=False)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Close the bars."""
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close the bars, which leaves the terminal usable."""
        self._close()

    def _close(self) -> None:
        if self.progress is not None:
            self.progress.stop()
            self.progress = None

    @staticmethod
    def _num_unguided(module: MotionTransfer) -> int:
        return module.num_steps - module.num_guided_steps + (module.num_steps if module.baseline else 0)

    @staticmethod
    def _done(module: MotionTransfer) -> int:
        return module.step * module.num_inner_steps + module.inner_step
