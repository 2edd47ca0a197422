import sys
from types import ModuleType

import pytest
import torch

from fastvmt_pl.errors import UserError
from fastvmt_pl.evaluation.cotracker import CoTracker


class Predictor(torch.nn.Module):
    """Answers as cotracker.predictor.CoTrackerPredictor does: points of a grid that move by (2, 1) a frame."""

    def __init__(self, checkpoint):
        super().__init__()
        assert checkpoint.endswith("weights.pth")

    def forward(self, video, grid_size):
        assert video.shape[2] == 3
        assert video.dtype == torch.float32
        frame = torch.arange(video.shape[1]).view(1, -1, 1, 1)
        points = torch.rand(1, 1, grid_size**2, 2) + frame * torch.tensor([2.0, 1.0])
        return points, torch.ones(points.shape[:3], dtype=torch.bool)


def test_cotrackers_output_becomes_tracks(monkeypatch, tmp_path):
    module = ModuleType("cotracker.predictor")
    module.CoTrackerPredictor = Predictor
    monkeypatch.setitem(sys.modules, "cotracker", ModuleType("cotracker"))
    monkeypatch.setitem(sys.modules, "cotracker.predictor", module)
    weights = tmp_path / "weights.pth"
    with pytest.raises(UserError, match=str(weights)):
        CoTracker(weights)
    weights.touch()
    tracks = CoTracker(weights, grid_size=3).track(torch.zeros(4, 8, 10, 3, dtype=torch.uint8))
    assert tracks.visible.all()
    torch.testing.assert_close(tracks.points.diff(dim=1), torch.tensor([2.0, 1.0]).expand(9, 3, 2))


def test_a_missing_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "cotracker", None)
    with pytest.raises(UserError, match="cotracker"):
        CoTracker(tmp_path / "weights.pth")
