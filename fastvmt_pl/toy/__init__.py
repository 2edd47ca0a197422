"""The toy world with known trajectories: clips, jobs and scores."""

from fastvmt_pl.toy.toy_world import ToyClip, ToyWorld

__all__ = ["ToyClip", "ToyWorld"]
