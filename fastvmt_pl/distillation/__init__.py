"""Distillation of a motion into a LoRA: the training, its samples, and the exported files."""

from fastvmt_pl.distillation.shards import Sample, read_shards, read_videos, write_shard

__all__ = ["Sample", "read_shards", "read_videos", "write_shard"]
