import json

import torch

from fastvmt_pl.clips.video_writing import enlarge
from fastvmt_pl.report.motion_overlay import NUM_TRACKS, motion_overlay
from fastvmt_pl.toy import ToyWorld


def test_tracks_and_arrows_follow_the_object():
    clip = ToyWorld(51, num_objects=1, camera=False, paths=("linear",))[0]
    overlay = motion_overlay(enlarge(clip.frames))
    assert json.loads(json.dumps(overlay)) == overlay
    assert 0 < len(overlay["tracks"]) <= NUM_TRACKS
    assert all(len(track) == 17 for track in overlay["tracks"])
    moved = (clip.trajectories[0][8] - clip.trajectories[0][7]) * 1000 / 48
    x, y = (clip.trajectories[0][7] * 12 / 48).int().tolist()
    arrow = torch.tensor(overlay["flow"][7][y][x], dtype=torch.float32)
    assert (arrow - moved).norm() < 0.5 * moved.norm()


def test_a_video_without_anything_to_follow_has_no_tracks():
    overlay = motion_overlay(torch.full((3, 64, 96, 3), 80, dtype=torch.uint8))
    assert overlay["tracks"] == []
    assert (overlay["rows"], overlay["columns"]) == (12, 18)
    assert len(overlay["flow"]) == 2
