"""The LightningCLIs of motion transfer and of distillation."""

from abc import abstractmethod
from typing import Any

from jsonargparse import Namespace
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from fastvmt_pl.backbones.precision import settle_config
from fastvmt_pl.callbacks import Costs, LastCheckpoint, LoraExport, Preemption, RunFolder, TransferProgress
from fastvmt_pl.datamodules import DistillationDataModule, MotionDataModule
from fastvmt_pl.errors import blaming_settings
from fastvmt_pl.distillation.motion_distillation import MotionDistillation
from fastvmt_pl.method.motion_transfer import MotionTransfer


class BlamingParser(LightningArgumentParser):
    """A parser that raises :class:`~fastvmt_pl.errors.UserError` if a class refuses its settings."""

    def instantiate_classes(self, *args: Any, **options: Any) -> Namespace:
        """Make the classes that settings name."""
        with blaming_settings():
            made: Namespace = super().instantiate_classes(*args, **options)
        return made


class JobCLI(LightningCLI):
    """LightningCLI with one sub-command, ``fit``, of a module and a datamodule that draw their noise from own seeds."""

    module: type[LightningModule]
    data: type[LightningDataModule]

    def __init__(self, args: list[str], trainer_defaults: dict[str, Any] | None = None, **options: Any) -> None:
        super().__init__(
            self.module,
            self.data,
            args=args,
            trainer_defaults={
                "log_every_n_steps": 1,
                "plugins": [{"class_path": "fastvmt_pl.files.checkpoint_io.AtomicCheckpointIO"}],
                **(trainer_defaults or {}),
            },
            seed_everything_default=False,
            parser_class=BlamingParser,
            auto_configure_optimizers=False,  # the optimiser is the module's
            parser_kwargs={"prog": "fastvmt", "exit_on_error": False, "fit": {"exit_on_error": False}},
            **options,
        )

    def instantiate_classes(self) -> None:
        """Make trainer, module and datamodule, and settle the precision, as the device is known now."""
        super().instantiate_classes()
        model = self._get(self.config, "model")
        settle_config(model["backbone"], self.trainer.strategy.root_device)
        if "negative_prompt" in model:  # None is what the model's makers recommend
            model["negative_prompt"] = self.model.negative_prompt

    def instantiate_trainer(self, **options: Any) -> Trainer:
        """Log to a CSV file whatever the config logs to, unless it logs to nothing."""
        with blaming_settings():
            trainer = super().instantiate_trainer(**options)
        if trainer.loggers and not any(isinstance(logger, CSVLogger) for logger in trainer.loggers):
            folders = [each.folder for each in trainer.callbacks if isinstance(each, RunFolder)]  # type: ignore[attr-defined]
            place = next(iter(folders), None) or trainer.log_dir or trainer.default_root_dir
            trainer.loggers = [*trainer.loggers, CSVLogger(place, name="logs")]
        return trainer

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Leave out validate, test and predict, which these modules do not have."""
        return {"fit": LightningCLI.subcommands()["fit"]}

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse, without Lightning's warning that the process has arguments of its own."""
        assert isinstance(args, list)
        self.config = parser.parse_args(args)


class TransferCLI(JobCLI):
    """LightningCLI for motion transfer; the trainer's epochs follow from the guided steps.

    Jobs on several devices share nothing but files, so a trainer has one device unless the config says otherwise.

    Args:
        args: Words of the command line.
        trainer_defaults: The trainer's settings where the words leave them open.
        read_clips: Read the clips at once; without them, only the settings are checked.
        options: Lightning's.
    """

    module, data = MotionTransfer, MotionDataModule

    def __init__(
        self,
        args: list[str],
        trainer_defaults: dict[str, Any] | None = None,
        read_clips: bool = True,
        **options: Any,
    ) -> None:
        self.read_clips = read_clips
        super().__init__(args, trainer_defaults={"devices": 1, **(trainer_defaults or {})}, **options)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link what would otherwise have to be said twice."""
        parser.link_arguments("model.num_guided_steps", "trainer.max_epochs")

    def instantiate_trainer(self, **options: Any) -> Trainer:
        """Refuse clips and settings that do not go with the model before anything is loaded or written."""
        if self.read_clips:
            self.datamodule.read_clips(self.model)
        else:
            self.datamodule.check_settings(self.model)
        return super().instantiate_trainer(**options)


class DistillCLI(JobCLI):
    """LightningCLI for distillation from a data folder."""

    module, data = MotionDistillation, DistillationDataModule


class _WithDefaults(JobCLI):
    """Adds callbacks and loggers that the config does not bring itself."""

    def instantiate_trainer(self, **options: Any) -> Trainer:
        """Add what the config leaves out."""
        given = self.config_init["fit"]["trainer"]
        defaults = self.default_callbacks(given["enable_progress_bar"] is not False)
        if given["enable_checkpointing"] is not False:
            defaults.append(LastCheckpoint())
        callbacks = given["callbacks"] or []
        brought = tuple(type(each) for each in ([callbacks] if isinstance(callbacks, Callback) else callbacks))
        self.trainer_defaults["callbacks"] = [each for each in defaults if not issubclass(type(each), brought)]
        if given["logger"] in (None, True):
            board = TensorBoardLogger(given["default_root_dir"] or ".")
            options["logger"] = [board, CSVLogger(board.log_dir, name="logs", version="")]
        return super().instantiate_trainer(**options)

    @abstractmethod
    def default_callbacks(self, progress: bool) -> list[Callback]:
        """Return what a run has unless the config brings its own."""


class FitCLI(_WithDefaults, TransferCLI):
    """The command ``fit``: results, progress and a checkpoint to resume from, unless the config brings its own."""

    def default_callbacks(self, progress: bool) -> list[Callback]:
        """Return costs, a run folder, preemption and progress."""
        return [Costs(), RunFolder(), Preemption(), *([TransferProgress()] if progress else [])]


class TrainCLI(_WithDefaults, DistillCLI):
    """The command ``train``: an exported LoRA and a checkpoint to resume from, unless the config brings its own."""

    def default_callbacks(self, progress: bool) -> list[Callback]:
        """Return the export, preemption and progress."""
        return [LoraExport(), Preemption(), *([RichProgressBar()] if progress else [])]
