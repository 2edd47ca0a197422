import pytest
import torch

from fastvmt_pl.clips import Clip, ClipError, align, read_pair
from fastvmt_pl.clips.aligned import common_frames
from fastvmt_pl.clips.timeline import Timeline
from fastvmt_pl.clips.video_writing import write_video
from fastvmt_pl.toy import ToyWorld


@pytest.fixture(scope="module")
def frames():
    return ToyWorld(46, num_objects=1, camera=False, paths=("linear",))[0].frames


def clip_of(frames, fps=8.0, name="a"):
    return Clip(frames, fps, name)


def numbered(num_frames, fps, name="a"):
    """Return a clip whose frames have their number as brightness."""
    levels = torch.arange(num_frames, dtype=torch.uint8).view(-1, 1, 1, 1)
    return Clip(levels.expand(-1, 256, 256, 3), fps, name)


@pytest.mark.parametrize(
    ("lengths", "rates", "expected"),
    [
        ((4, 4), (8.0, 8.0), ([0, 1, 2, 3], [0, 1, 2, 3])),
        ((4, 9), (8.0, 8.0), ([0, 1, 2, 3], [0, 1, 2, 3])),
        ((7, 4), (16.0, 8.0), ([0, 2, 4, 6], [0, 1, 2, 3])),
        ((4, 3), (30.0, 20.0), ([0, 2, 3], [0, 1, 2])),
        ((81, 81), (15.0, 15.03), (list(range(81)), list(range(81)))),
    ],
    ids=["alike", "shorter", "faster", "uneven", "nearly alike"],
)
def test_frames_shown_at_the_same_time_are_paired(lengths, rates, expected):
    clips = [numbered(length, rate) for length, rate in zip(lengths, rates, strict=True)]
    for order in (1, -1):
        pair = align(*clips[::order])
        found = [frames[:, 0, 0, 0].tolist() for frames in (pair.reference, pair.output)]
        assert found[::order] == list(expected)
        assert pair.fps == pytest.approx(min(rates))


@pytest.mark.parametrize("rounded", [6.666, 6.66602, 6.667])
def test_a_rounded_duration_costs_no_frame(rounded):
    exact = Timeline.regular(5, 0.75)
    for first, second in ((Timeline(exact.times, rounded), exact), (exact, Timeline(exact.times, rounded))):
        assert common_frames(first, second, ("a", "b"))[:2] == (list(range(5)), list(range(5)))


def test_clips_without_common_time_are_refused():
    with pytest.raises(ClipError, match="a and b"):
        align(numbered(1, 8.0, "a"), numbered(9, 8.0, "b"))


def test_the_reference_is_cropped_to_the_videos_aspect_ratio(frames):
    wide = torch.cat([torch.zeros_like(frames), frames, torch.zeros_like(frames)], 2)
    pair = align(clip_of(wide), clip_of(frames))
    assert pair.reference.shape == pair.output.shape == (17, 256, 256, 3)
    assert torch.equal(pair.reference, pair.output)
    assert align(clip_of(frames), clip_of(wide)).output.shape == (17, 256, 768, 3)


def test_read_pair_equals_align_of_the_clips(frames, tmp_path):
    write_video(tmp_path / "a.mp4", frames, 8.0)
    write_video(tmp_path / "b.mp4", frames[::2], 4.0)
    pair = read_pair(tmp_path / "a.mp4", tmp_path / "b.mp4")
    assert pair.fps == 4.0
    assert pair.reference.shape == (9, 256, 256, 3)
    assert (pair.reference.float() - pair.output.float()).abs().mean() < 4
    with pytest.raises(ClipError, match=r"c\.mp4"):
        read_pair(tmp_path / "a.mp4", tmp_path / "c.mp4")
