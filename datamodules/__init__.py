"""Datamodules: reference clips with their motion, shards of samples to learn from, and the toy world."""

from .clips import Clip, ClipError, TooShortError, check_file, content_hash, read_clip
from .distillation import DistillationDataModule
from .motion import MotionDataModule, check_interval
from .pairs import Pair, align, read_pair
from .picture_folder import find_pictures
from .shards import Sample, read_shards, read_videos, without_padding, write_shard
from .toy_world import ToyClip, ToyWorld

__all__ = [
    "Clip",
    "ClipError",
    "DistillationDataModule",
    "MotionDataModule",
    "Pair",
    "Sample",
    "TooShortError",
    "ToyClip",
    "ToyWorld",
    "align",
    "check_file",
    "check_interval",
    "content_hash",
    "find_pictures",
    "read_clip",
    "read_pair",
    "read_shards",
    "read_videos",
    "without_padding",
    "write_shard",
]
