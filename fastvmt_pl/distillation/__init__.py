"""Distillation of a motion into a LoRA: training, samples, and exported files."""

from fastvmt_pl.distillation.shards import Sample, read_shards, read_videos, write_shard

__all__ = ["Sample", "read_shards", "read_videos", "write_shard"]
