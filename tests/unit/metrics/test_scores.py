import pytest
import torch

from fastvmt_pl.appearance import appearance_leak
from fastvmt_pl.datamodules import ToyWorld
from fastvmt_pl.metrics.functional import flow_endpoint_error, motion_fidelity, published_motion_fidelity
from fastvmt_pl.metrics.scores import BETTER, LOCAL_REACH, score_video
from fastvmt_pl.tracking import LucasKanade, Tracks
from fastvmt_pl.tracking.cotracker import CoTracker


@pytest.fixture(scope="module")
def videos():
    world = ToyWorld(47, num_objects=1, camera=False, paths=("linear", "arc"))
    return [world[number].frames[:6] for number in range(3)]


def test_every_score_is_that_of_its_function(videos):
    reference, output, baseline = videos
    scores = score_video(reference, output, LucasKanade(), baseline=baseline)
    tracks = [LucasKanade().track(video) for video in (reference, output)]
    assert scores["motion_fidelity"] == motion_fidelity(*tracks)
    assert scores["local_motion_fidelity"] == motion_fidelity(*tracks, LOCAL_REACH * 48)
    assert (scores["flow_error"], scores["relative_flow_error"]) == flow_endpoint_error(reference, output)
    assert scores["appearance_leak"] == appearance_leak(output, baseline, reference)
    assert list(scores) == [name for name in BETTER if name in scores]


def test_a_reconstruction_is_also_compared_pixel_by_pixel(videos):
    reference = videos[0]
    scores = score_video(reference, reference.clamp(max=254) + 1, LucasKanade(), reconstruction=True)
    assert scores["psnr"] == pytest.approx(48.13, abs=0.1)  # one level of 255, but for white
    assert scores["ssim"] > 0.99
    assert "psnr" not in score_video(reference, reference, LucasKanade())


def test_cotracker_also_gives_the_published_score(videos, monkeypatch):
    tracks = Tracks(torch.randn(5, 6, 2), torch.ones(5, 6, dtype=torch.bool))
    monkeypatch.setattr(CoTracker, "__init__", lambda self: None)
    monkeypatch.setattr(CoTracker, "track", lambda self, frames: tracks)
    scores = score_video(*videos[:2], CoTracker())
    assert scores["published_motion_fidelity"] == published_motion_fidelity(tracks.points, tracks.points)
