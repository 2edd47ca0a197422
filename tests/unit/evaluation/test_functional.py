import math
import random

import pytest
import torch
from torch.nn.functional import interpolate
from torchmetrics.functional import spearman_corrcoef

from fastvmt_pl.clips import Clip, align
from fastvmt_pl.errors import UserError
from fastvmt_pl.evaluation import DenseFlow, LucasKanade, Tracks
from fastvmt_pl.evaluation.functional import (
    STILL,
    check_pair,
    flow_endpoint_error,
    motion_fidelity,
    published_motion_fidelity,
    temporal_consistency,
)
from fastvmt_pl.toy import ToyWorld
from fastvmt_pl.toy.toy_jobs import MOVING
from fastvmt_pl.toy.toy_tracker import relative_path_error
from fastvmt_pl.toy.toy_world import FPS, combinations, place, render


def tracks(*steps, visible=None, start=(0.0, 0.0)):
    """Tracks that take these steps."""
    moved = torch.tensor(steps, dtype=torch.float32).cumsum(1)
    points = torch.cat([torch.zeros_like(moved[:, :1]), moved], 1) + torch.tensor(start)
    return Tracks(points, torch.ones(points.shape[:2], dtype=torch.bool) if visible is None else torch.tensor(visible))


RIGHT, LEFT, UP, STAY = ([[x, y]] * 4 for x, y in ((3.0, 0.0), (-3.0, 0.0), (0.0, -3.0), (0.0, 0.0)))


def naive_fidelity(reference, output):
    """The formula track by track."""
    total = weights = 0.0
    for ours, theirs in ((reference, output), (output, reference)):
        for points, seen in zip(ours.points, ours.visible, strict=True):
            best = -math.inf
            for others, others_seen in zip(theirs.points, theirs.visible, strict=True):
                both = seen & others_seen
                if both.any():
                    u, v = (x[both] - x[both].mean(0) for x in (points, others))
                    noise = both.sum() * STILL**2
                    agreement = (2 * (u * v).sum() + noise) / (u.pow(2).sum() + v.pow(2).sum() + noise)
                else:
                    agreement = torch.tensor(0.0)
                best = max(best, float(both.sum() / seen.sum() * agreement))
            own = points[seen] - points[seen].mean(0)
            weight = float((own.norm(dim=1) - STILL).clamp(min=0).sum()) + 1e-3
            total, weights = total + weight * best, weights + weight
    return total / weights


def test_motion_fidelity_equals_its_formula():
    for hidden in (0.0, 0.2, 0.4):
        pair = [Tracks(3 * torch.randn(count, 5, 2), torch.rand(count, 5) > hidden) for count in (4, 7)]
        pair = [Tracks(one.points[one.visible.any(1)], one.visible[one.visible.any(1)]) for one in pair]
        assert motion_fidelity(*pair) == pytest.approx(naive_fidelity(*pair), abs=1e-5)


@pytest.mark.parametrize(
    ("other", "expected"),
    [(RIGHT, 1.0), (LEFT, -1.0), (UP, 0.0), (STAY, 0.0)],
    ids=["same", "opposite", "across", "still"],
)
def test_two_tracks_score_by_their_motion(other, expected):
    assert motion_fidelity(tracks(RIGHT), tracks(other)) == pytest.approx(expected, abs=0.01)


def test_speed_changes_the_score():
    half = tracks([[1.5, 0.0]] * 4)
    assert motion_fidelity(tracks(RIGHT), half) == pytest.approx(2 * 0.5 / 1.25, abs=0.01)


def test_two_still_videos_agree():
    assert motion_fidelity(tracks(STAY, STAY), tracks(STAY)) == 1
    assert math.isnan(published_motion_fidelity(tracks(STAY).points, tracks(STAY).points))


def test_a_still_background_hides_nothing():
    background = [STAY] * 50
    assert motion_fidelity(tracks(RIGHT, *background), tracks(LEFT, *background)) < 0.02
    assert motion_fidelity(tracks(RIGHT, *background), tracks(RIGHT, UP, *background)) == pytest.approx(2 / 3, abs=0.02)


def test_motion_fidelity_is_symmetric_for_unequal_numbers_of_tracks():
    few, many = tracks(RIGHT, UP), tracks(RIGHT, LEFT, STAY, UP, RIGHT)
    assert motion_fidelity(few, many) == pytest.approx(motion_fidelity(many, few))
    assert motion_fidelity(few, few) == 1


def test_positions_that_are_not_visible_do_not_count():
    half = tracks(RIGHT, visible=[[True, True, True, False, False]])
    garbage = Tracks(half.points.where(half.visible[..., None], math.nan), half.visible)
    assert motion_fidelity(garbage, half) == motion_fidelity(half, half) == pytest.approx(1.0)


def test_a_match_is_weighted_by_its_visible_frames():
    shown = tracks(RIGHT, visible=[[True, True, True, True, False]])
    long, short = 18.0 - 5 * STILL, 12.0 - 4 * STILL  # distances from the mean: 6, 3, 0, 3, 6 and 4.5, 1.5, 1.5, 4.5
    expected = (long * 4 / 5 + short) / (long + short)
    assert motion_fidelity(tracks(RIGHT), shown) == pytest.approx(expected, abs=0.01)


def test_videos_without_points_have_no_score():
    nothing = Tracks(torch.zeros(0, 5, 2), torch.zeros(0, 5, dtype=torch.bool))
    assert math.isnan(motion_fidelity(nothing, tracks(RIGHT)))
    assert 0 <= motion_fidelity(tracks(RIGHT), nothing) < 0.1  # a blank video has no part of the motion


def test_with_a_reach_only_near_tracks_match():
    zoom_in = Tracks(
        torch.cat([tracks(LEFT, start=(20.0, 50.0)).points, tracks(RIGHT, start=(80.0, 50.0)).points]),
        torch.ones(2, 5, dtype=torch.bool),
    )
    zoom_out = Tracks(zoom_in.points.flip(1), zoom_in.visible)
    assert motion_fidelity(zoom_in, zoom_out) == pytest.approx(1.0)
    assert motion_fidelity(zoom_in, zoom_out, reach=30.0) < 0.01
    assert motion_fidelity(zoom_in, zoom_in, reach=1.0) == 1
    first, last = (
        [[number < 2, number < 2, False, number >= 2, number >= 2] for number in x] for x in ((0, 1), (2, 3))
    )
    apart = (Tracks(zoom_in.points, torch.tensor(seen)) for seen in (first, last))
    assert motion_fidelity(*apart, reach=1000.0) < 0.01  # no frame in common


def test_published_motion_fidelity_equals_the_published_code():
    ours, theirs = torch.randn(4, 6, 2), torch.randn(4, 6, 2)
    rows = []
    for i in range(4):
        cosines = []
        for j in range(4):
            u, v = theirs[i].diff(dim=0), ours[j].diff(dim=0)
            cosines.append(float(torch.cosine_similarity(u, v, dim=1).mean()) - (1 if i == j else 0))
        rows.append(max(cosines))
    assert published_motion_fidelity(ours, theirs) == pytest.approx(sum(rows) / 4, abs=1e-5)


# On toy clips, whose motion is known


def seen(clip, frames):
    return align(Clip(clip.frames, FPS, "reference"), Clip(frames, FPS, "video"))


def toy_video(clip, path, draw):
    """A video of another look whose object takes a path."""
    item, background = draw.choice([c for c in combinations(held_out=False) if c[0].colour != clip.objects[0].colour])
    return render(draw, [item], background, path[None], torch.zeros_like(path))


def others_than(world, number):
    """A clip's reverse, its first frame for as long, and another clip."""
    frames = world[number].frames
    return frames.flip(0), frames[:1].expand_as(frames).contiguous(), world[50 + number].frames


def fidelity_of(pair, tracker):
    return motion_fidelity(tracker.track(pair.reference), tracker.track(pair.output))


@pytest.mark.parametrize("tracker", [LucasKanade(), DenseFlow()])
def test_a_clip_agrees_only_with_itself(tracker):
    """On average: a bounce resembles its reverse, and two clips may go one way."""
    world = ToyWorld(40, num_objects=1, camera=False, paths=MOVING)
    found = []
    for number in range(4):
        clip = world[number]
        own, *others = (tracker.track(seen(clip, video).output) for video in (clip.frames, *others_than(world, number)))
        assert motion_fidelity(own, own) == pytest.approx(1.0, abs=1e-6)
        found.append([motion_fidelity(own, other) for other in others])
    reverse, still, unrelated = torch.tensor(found).mean(0)
    assert reverse < 0.5
    assert still < 0.05
    assert unrelated < 0.6


def test_the_flow_error_is_zero_only_for_the_clip_itself():
    world = ToyWorld(40, num_objects=1, camera=False, paths=MOVING)
    errors = []
    for number in range(4):
        frames = world[number].frames
        assert flow_endpoint_error(frames, frames) == (0.0, 0.0)
        errors.append([flow_endpoint_error(frames, other)[1] for other in others_than(world, number)])
    assert (torch.tensor(errors).mean(0) > 0.8).all()


def test_motion_fidelity_falls_with_the_distance_of_paths():
    """By a growing share of another clip's motion, on average over clips."""
    world = ToyWorld(41, num_objects=1, camera=False, paths=MOVING)
    found = []
    for number in range(4):
        clip, other = world[number], world[10 + number].trajectories[0]
        own = clip.trajectories[0]
        paths = [own[:1] + (1 - x) * (own - own[:1]) + x * (other - other[:1]) for x in (0.0, 0.2, 0.4, 0.6, 0.8)]
        videos = [toy_video(clip, path, random.Random(number)) for path in paths]  # of one look
        found.append([fidelity_of(seen(clip, video), LucasKanade()) for video in videos])
    means = torch.tensor(found).mean(0)
    assert (means.diff() < -0.02).all()
    assert means[0] > 0.9


@pytest.mark.parametrize("num_videos", [16, pytest.param(100, marks=pytest.mark.slow)])
def test_motion_fidelity_ranks_videos_like_the_true_error(num_videos):
    """Over videos of another look, in another place, whose paths depart from the reference's by known amounts."""
    world = ToyWorld(42, num_objects=1, camera=False, paths=MOVING)
    errors, found = [], []
    for number in range(num_videos):
        clip, draw = world[number], random.Random(f"rank/{number}")
        own, other = clip.trajectories[0], world[200 + number].trajectories[0]
        share = draw.random()
        path = place(draw, (1 - share) * (own - own[:1]) + share * (other - other[:1]), [])
        errors.append(relative_path_error(path, own))
        found.append(fidelity_of(seen(clip, toy_video(clip, path, draw)), LucasKanade()))
    assert spearman_corrcoef(torch.tensor(found), torch.tensor(errors)) <= -0.9


def test_noise_and_cuts_lower_consistency_and_motion_does_not():
    world = ToyWorld(43, num_objects=1, camera=True, paths=MOVING)
    clip, other = world[0].frames, world[1].frames
    noisy = (clip.float() + 40 * torch.randn(clip.shape)).clamp(0, 255).to(torch.uint8)
    still = clip[:1].expand_as(clip).contiguous()
    assert temporal_consistency(still) == pytest.approx(1.0, abs=1e-6)
    assert temporal_consistency(clip) > 0.97
    assert temporal_consistency(noisy) < 0.9
    cut, shuffled = torch.cat([clip[:8], other[:8]]), torch.stack([clip[:8], other[:8]], 1).flatten(0, 1)
    assert temporal_consistency(shuffled) < temporal_consistency(cut) < temporal_consistency(clip) - 0.005


def test_a_still_reference_has_no_relative_flow_error():
    clip = ToyWorld(43, num_objects=1, camera=False, paths=("linear",))[0].frames
    still = clip[:1].expand_as(clip).contiguous()
    error, share = flow_endpoint_error(still, clip)
    assert error > 0
    assert math.isnan(share)
    textured = 3 + 240 * interpolate(torch.rand(1, 3, 16, 16), size=(128, 128), mode="bilinear")[0].movedim(0, -1)
    noisy = (textured + torch.randint(-8, 9, (4, 128, 128, 3))).clamp(0, 255).to(torch.uint8)  # as a camera's
    assert math.isnan(flow_endpoint_error(noisy, noisy.roll(3, 2))[1])


def test_videos_that_cannot_be_compared_are_refused():
    video = torch.zeros(4, 32, 32, 3, dtype=torch.uint8)
    for first, second in ((video, video[:2]), (video, video[:, :, :24]), (video[:1], video[:1])):
        with pytest.raises(UserError):
            check_pair(first, second)
    for small in (video[:1], video[:, :8, :8]):
        with pytest.raises(UserError):
            flow_endpoint_error(small, small)
