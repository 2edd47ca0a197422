"""The LightningCLIs of motion transfer and of distillation: jsonargparse makes the objects that settings name."""

from abc import abstractmethod
from argparse import ArgumentError
from collections.abc import Mapping
from typing import Any, Literal

import yaml
from jsonargparse import Namespace, get_loader, set_loader
from jsonargparse.typing import register_type
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import RichProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor

from fastvmt_pl.backbones import Backbone
from fastvmt_pl.backbones.precision import settle_config
from fastvmt_pl.callbacks import Costs, LastCheckpoint, LoraExport, Preemption, RunFolder, TransferProgress
from fastvmt_pl.datamodules import DistillationDataModule, MotionDataModule
from fastvmt_pl.distillation.motion_distillation import MotionDistillation
from fastvmt_pl.errors import UserError, blaming_settings, one_line
from fastvmt_pl.method.motion_transfer import MotionTransfer
from fastvmt_pl.runs.old_spellings import renewed

Check = Literal["clips", "settings", "nothing"]
"""What is looked at while a transfer is composed: its clips and settings, its settings alone, or nothing."""
MODE = "yaml with old spellings"
read_yaml = get_loader("yaml")
set_loader(MODE, lambda text: renewed(read_yaml(text)), (yaml.YAMLError,))


def _no_tensor(given: Any) -> Tensor:
    raise ValueError(f"{given!r} is no tensor; those are given from Python alone")


# As any other class, a tensor could be described by a file of settings: a mask or an image would be read as one.
register_type(Tensor, deserializer=_no_tensor, type_check=isinstance)


class SettingsParser(LightningArgumentParser):
    """A parser that knows old class paths, and raises ``UserError`` if a class refuses its settings."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{**options, "parser_mode": MODE})

    def instantiate_classes(self, *args: Any, **options: Any) -> Namespace:
        """Make the classes that settings name."""
        with blaming_settings():
            made: Namespace = super().instantiate_classes(*args, **options)
        return made


class SettingsCLI(LightningCLI):
    """LightningCLI of a module and a datamodule that draw their noise from seeds of their own.

    Args:
        args: Settings as YAML gives them, or words of a command line, whose sub-command is ``fit``.
        trainer_defaults: The trainer's settings where these leave them open, and callbacks that it has besides.
        with_trainer: Make the trainer too, for whose device the precision is settled.
        options: Lightning's.
    """

    module: type[LightningModule]
    data: type[LightningDataModule]

    def __init__(
        self,
        args: dict[str, Any] | list[str],
        trainer_defaults: Mapping[str, Any] | None = None,
        with_trainer: bool = True,
        **options: Any,
    ) -> None:
        self.with_trainer = with_trainer
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
            parser_class=SettingsParser,
            auto_configure_optimizers=False,  # the optimiser is the module's
            parser_kwargs={"prog": "fastvmt", "exit_on_error": False, "fit": {"exit_on_error": False}},
            **options,
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse, without Lightning's warning that the process has arguments of its own."""
        try:
            self.config = parser.parse_args(args) if isinstance(args, list) else parser.parse_object(args)
        except ArgumentError as error:
            raise UserError(one_line(str(error))) from error

    def instantiate_classes(self) -> None:
        """Make trainer, module and datamodule, and settle the precision, as the device is known now."""
        super().instantiate_classes()
        settings = self._get(self.config, "model")
        if self.with_trainer and not isinstance(settings["backbone"], Backbone):
            settle_config(settings["backbone"], self.trainer.strategy.root_device)
        if "negative_prompt" in settings:  # None is what the model's makers recommend
            settings["negative_prompt"] = self.model.negative_prompt

    def instantiate_trainer(self, **options: Any) -> Any:
        """Log to a CSV file whatever the config logs to, unless it logs to nothing."""
        if not self.with_trainer:
            return None
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

    def config_text(self) -> str:
        """Return all settings as YAML, those that follow from others too."""
        text: str = self.parser.dump(self.config, skip_link_targets=False)
        return text


class TransferCLI(SettingsCLI):
    """LightningCLI for motion transfer; the trainer's epochs follow from the guided steps.

    Jobs on several devices share nothing but files, so a trainer has one device unless the config says otherwise.

    Args:
        args: Settings, or words of a command line.
        trainer_defaults: The trainer's settings where these leave them open, and callbacks that it has besides.
        check: What to look at before the trainer is made.
        options: As of :class:`SettingsCLI`.
    """

    module, data = MotionTransfer, MotionDataModule
    model: MotionTransfer
    datamodule: MotionDataModule
    trainer: Trainer

    def __init__(
        self,
        args: dict[str, Any] | list[str],
        trainer_defaults: Mapping[str, Any] | None = None,
        check: Check = "clips",
        **options: Any,
    ) -> None:
        self.check = check
        super().__init__(args, trainer_defaults={"devices": 1, **(trainer_defaults or {})}, **options)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link what would otherwise have to be said twice."""
        parser.link_arguments("model.num_guided_steps", "trainer.max_epochs")

    def instantiate_trainer(self, **options: Any) -> Any:
        """Refuse clips and settings that do not go with the model before anything is loaded or written."""
        if self.check == "clips":
            self.datamodule.read_clips(self.model)
        elif self.check == "settings":
            self.datamodule.check_settings(self.model)
        trainer = super().instantiate_trainer(**options)
        if self.check != "nothing":
            self.model.check_trainer(trainer)
        return trainer


class DistillCLI(SettingsCLI):
    """LightningCLI for distillation from a data folder."""

    module, data = MotionDistillation, DistillationDataModule
    model: MotionDistillation
    datamodule: DistillationDataModule
    trainer: Trainer


class _WithDefaults(SettingsCLI):
    """Adds callbacks and loggers that the config does not bring itself."""

    def instantiate_trainer(self, **options: Any) -> Any:
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
