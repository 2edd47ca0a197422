"""From a config to the objects of a run: the one way that every command and every Python user goes."""

from collections.abc import Mapping
from typing import Any

from fastvmt_pl.errors import UserError
from fastvmt_pl.runs.lightning_cli import Check, DistillCLI, TransferCLI
from fastvmt_pl.runs.old_spellings import renewed

SILENT = {
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}
"""A trainer's settings with which it shows and writes nothing."""


def compose(
    config: Mapping[str, Any],
    trainer_defaults: Mapping[str, Any] = SILENT,
    check: Check = "clips",
    with_trainer: bool = True,
) -> TransferCLI:
    """Return the module, datamodule and trainer of a transfer, and its settings with all defaults.

    Args:
        config: Settings in the groups model, data and trainer, as YAML gives them. A backbone, clips, losses and
            callbacks may be objects.
        trainer_defaults: The trainer's settings where the config leaves them open, and callbacks that it has besides.
        check: What to look at: the clips, which are read, and the settings; or the settings alone; or nothing.
        with_trainer: Make the trainer too; without one, no device is looked for.

    Returns:
        An object with ``model``, ``datamodule``, ``trainer``, ``config`` and ``config_text()``.

    Raises:
        UserError: If a setting, a clip or the model cannot be used; the message says what to change.
    """
    finish = (config.get("model") or {}).get("finish")
    if isinstance(finish, Mapping) and not finish.get("init_args", finish).get("loras"):
        raise UserError("the finish has no LoRA; give finish_loras, distilled for few steps, or leave the finish out")
    cache = (config.get("model") or {}).get("step_cache")
    if isinstance(cache, Mapping) and not cache.get("init_args", cache).get("method"):
        raise UserError("step_cache_threshold is of no step cache; give step_cache too, such as first_block")
    return TransferCLI(
        renewed(config),
        trainer_defaults,
        check,
        with_trainer=with_trainer,
        run=False,
        save_config_callback=None,
    )


def compose_training(
    config: Mapping[str, Any], trainer_defaults: Mapping[str, Any] = SILENT, with_trainer: bool = True
) -> DistillCLI:
    """Return the module, datamodule and trainer of a LoRA's training; see :func:`compose`.

    Args:
        config: Settings in the groups model, data and trainer, as YAML gives them.
        trainer_defaults: The trainer's settings where the config leaves them open, and callbacks that it has besides.
        with_trainer: Make the trainer too.

    Raises:
        UserError: If a setting cannot be used; the message says what to change.
    """
    return DistillCLI(
        renewed(config), trainer_defaults, with_trainer=with_trainer, run=False, save_config_callback=None
    )
