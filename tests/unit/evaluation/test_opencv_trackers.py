import pytest
import torch

from fastvmt_pl.errors import UserError
from fastvmt_pl.evaluation import DenseFlow, LucasKanade, Tracker
from fastvmt_pl.evaluation.tracks import Tracks

TRACKERS = [LucasKanade(), DenseFlow()]


@pytest.mark.parametrize("tracker", TRACKERS)
def test_points_follow_the_motion_in_both_directions(pan, tracker):
    assert isinstance(tracker, Tracker)
    tracks = tracker.track(pan(-3, 5))
    assert isinstance(tracks, Tracks)
    assert tracks.visible.any(1).all()
    known = tracks.visible[:, 1:] & tracks.visible[:, :-1]
    assert known.float().mean() > 0.5
    steps = tracks.points.diff(dim=1)[known]
    error = (steps - torch.tensor([-3.0, 5.0])).norm(dim=-1)
    assert error.median() < 0.1
    began_last = len(tracks.points) - 1
    assert tracks.visible[began_last, -1]
    assert tracks.visible[:, 0].sum() > (tracks.visible[:, 0] & tracks.visible[:, -1]).sum() > 0


@pytest.mark.parametrize("tracker", TRACKERS)
def test_a_point_that_vanishes_stays_lost(pan, texture, tracker):
    video = torch.cat([pan(1, 0)[:3], texture[100:228, 120:280].flip(0, 1).expand(3, -1, -1, -1), pan(1, 0)[:3]])
    tracks = type(tracker)(num_keyframes=1).track(video)
    assert tracks.visible[:, :3].float().mean() > 0.9
    assert tracks.visible[:, 4:].float().mean() < 0.3  # a texture of noise has some chance matches
    later = tracks.visible.int().diff(dim=1)
    assert later.max() <= 0


@pytest.mark.parametrize("tracker", TRACKERS)
def test_points_of_a_video_without_texture_do_not_move(tracker):
    tracks = tracker.track(torch.full((4, 64, 64, 3), 90, dtype=torch.uint8))
    assert tracks.points.isfinite().all()
    assert tracks.points.diff(dim=1).abs().sum() == 0


@pytest.mark.parametrize(
    ("kind", "options", "offender"),
    [
        (LucasKanade, {"num_points": 0}, "num_points"),
        (LucasKanade, {"window": 1}, "window"),
        (LucasKanade, {"num_keyframes": 0}, "num_keyframes"),
        (DenseFlow, {"tolerance": 0.0}, "tolerance"),
        (DenseFlow, {"num_rows": 0}, "num_rows"),
    ],
)
def test_settings_out_of_range_are_refused(kind, options, offender):
    with pytest.raises(UserError, match=offender):
        kind(**options)
