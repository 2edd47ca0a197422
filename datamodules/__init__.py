"""Datamodules: reference clips with their motion, shards of samples to learn from, and the toy world."""

from fastvmt_pl.datamodules.distillation_datamodule import DistillationDataModule
from fastvmt_pl.datamodules.motion_datamodule import MotionDataModule, check_interval

__all__ = ["DistillationDataModule", "MotionDataModule", "check_interval"]
