"""The toy world, whose true paths are known: clips, jobs and the tracker that judges them."""

from fastvmt_pl.toy.toy_world import ToyClip, ToyWorld

__all__ = ["ToyClip", "ToyWorld"]
