"""Find what belongs to a trainer."""

from typing import Any, TypeVar

from lightning import Callback, Trainer

AnyCallback = TypeVar("AnyCallback", bound=Callback)


def find_callback(trainer: Trainer, kind: type[AnyCallback]) -> AnyCallback | None:
    """Return the trainer's first callback of a class, if it has one."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]  # Lightning does not declare it
    return next((callback for callback in callbacks if isinstance(callback, kind)), None)


def datamodule_of(trainer: Trainer) -> Any:
    """Return the trainer's datamodule."""
    return trainer.datamodule  # type: ignore[attr-defined]  # Lightning does not declare it
