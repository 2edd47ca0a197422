"""Datamodules: reference clips with their motion, and the toy world."""

from .clips import Clip, ClipError, check_file, read_clip
from .motion import MotionDataModule
from .toy_world import ToyClip, ToyWorld

__all__ = ["Clip", "ClipError", "MotionDataModule", "ToyClip", "ToyWorld", "check_file", "read_clip"]
