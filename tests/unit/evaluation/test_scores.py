import pytest
import torch

from fastvmt_pl.evaluation import (
    AppearanceLeak,
    FlowEndpointError,
    LucasKanade,
    MotionFidelity,
    TemporalConsistency,
    Tracks,
)
from fastvmt_pl.evaluation.appearance import appearance_leak
from fastvmt_pl.evaluation.clip_similarity import (
    ClipEmbedder,
    ClipFrameSimilarity,
    ClipTextSimilarity,
    frame_similarity,
    text_similarity,
)
from fastvmt_pl.evaluation.cotracker import CoTracker
from fastvmt_pl.evaluation.functional import flow_endpoint_error, motion_fidelity, published_motion_fidelity
from fastvmt_pl.evaluation.scores import BETTER, LOCAL_REACH, score_video
from fastvmt_pl.toy import ToyWorld


@pytest.fixture(scope="module")
def videos():
    world = ToyWorld(47, num_objects=1, camera=False, paths=("linear", "arc"))
    return [world[number].frames[:6] for number in range(3)]


def test_every_score_equals_its_function(videos):
    reference, output, baseline = videos
    scores = score_video(reference, output, LucasKanade(), baseline=baseline)
    tracks = [LucasKanade().track(video) for video in (reference, output)]
    assert scores["motion_fidelity"] == motion_fidelity(*tracks)
    assert scores["local_motion_fidelity"] == motion_fidelity(*tracks, LOCAL_REACH * 48)
    assert (scores["flow_error"], scores["relative_flow_error"]) == flow_endpoint_error(reference, output)
    assert scores["appearance_leak"] == appearance_leak(reference, output, baseline)
    assert list(scores) == [name for name in BETTER if name in scores]


def test_a_reconstruction_has_psnr_and_ssim(videos):
    reference = videos[0]
    scores = score_video(reference, reference.clamp(max=254) + 1, LucasKanade(), reconstruction=True)
    assert scores["psnr"] == pytest.approx(48.13, abs=0.1)  # one level of 255, but for white
    assert scores["ssim"] > 0.99
    assert "psnr" not in score_video(reference, reference, LucasKanade())


def test_cotracker_also_gives_the_published_score(videos, monkeypatch):
    wanted, made = (Tracks(torch.randn(5, 6, 2), torch.ones(5, 6, dtype=torch.bool)) for _ in range(2))
    monkeypatch.setattr(CoTracker, "__init__", lambda self: None)
    monkeypatch.setattr(CoTracker, "track", lambda self, frames: wanted if frames is videos[0] else made)
    scores = score_video(*videos[:2], CoTracker())
    assert scores["published_motion_fidelity"] == published_motion_fidelity(wanted.points, made.points)
    assert scores["published_motion_fidelity"] != published_motion_fidelity(made.points, wanted.points)


def test_an_embedder_also_gives_the_scores_by_clip(videos):
    class Embedder(ClipEmbedder):
        """Brightness and a constant, which a text has in equal parts."""

        def __init__(self):
            pass

        def pictures(self, frames):
            return torch.stack([frames.float().mean((1, 2, 3)), torch.full((len(frames),), 99.0)], 1)

        def text(self, text):
            return torch.ones(1, 2)

    output = videos[1]
    scores = score_video(videos[0], output, LucasKanade(), clip=Embedder(), prompt="a dog")
    pictures = Embedder().pictures(output)
    assert scores["clip_text"] == text_similarity(pictures, torch.ones(1, 2))
    assert scores["clip_frames"] == frame_similarity(pictures)
    assert "clip_text" not in score_video(videos[0], output, LucasKanade(), clip=Embedder())


@pytest.mark.parametrize(
    ("metric", "name"),
    [
        (MotionFidelity, "motion_fidelity"),
        (FlowEndpointError, "relative_flow_error"),
        (TemporalConsistency, "temporal_consistency"),
        (AppearanceLeak, "appearance_leak"),
        (ClipTextSimilarity, "clip_text"),
        (ClipFrameSimilarity, "clip_frames"),
    ],
)
def test_tables_and_metrics_agree_on_whether_higher_is_better(metric, name):
    assert metric.higher_is_better == (BETTER[name] == "higher")
