import pytest

from fastvmt_pl.clips import ClipError, TooShortError
from fastvmt_pl.clips.video_reader import ClipReader
from fastvmt_pl.errors import UserError
from fastvmt_pl.joblists import job_check
from fastvmt_pl.joblists.job_check import check_settings, cut
from fastvmt_pl.processes.stop_request import StopRequest


def test_settings_are_checked_once_a_kind_and_no_clip_is_read(clip, jobs, check, composed, monkeypatch):
    monkeypatch.setattr(ClipReader, "read", lambda *_: pytest.fail("a clip was read"))
    (clip.parent / "empty.mp4").write_bytes(b"")
    good, slow, odd = {}, {"num_steps": 4}, {"num_frames": 6}
    listed = jobs(good, good, slow, good, slow, odd, odd, {"clip": "none.mp4"}, {"clip": "empty.mp4"}, {"clip": "."})
    able, refused, costs = check_settings(listed, check, StopRequest())
    assert [job.name for job in able] == ["0", "1", "2", "3", "4"]
    reasons = {outcome.name: outcome.detail for outcome in refused}
    assert sorted(reasons) == ["5", "6", "7", "8", "9"]
    assert "num_frames" in reasons["5"]
    assert "none.mp4" in reasons["7"]
    assert costs == {able[0].kind: 5 * 48 * 48 * 2 * 2, able[2].kind: 5 * 48 * 48 * 4 * 2}
    assert composed == ["0", "2", "5"]


def test_the_check_of_very_many_kinds_is_left_to_their_jobs(clip, jobs, check, monkeypatch):
    monkeypatch.setattr(job_check, "NUM_KINDS", 1)
    listed = jobs({}, {"num_steps": 3}, {"num_frames": 6})
    able, _, costs = check_settings(listed, check, StopRequest())
    assert able == listed
    assert list(costs) == [listed[0].kind]


def test_the_same_frames_of_a_clip_are_read_once_whatever_else_the_settings_say(clip, jobs, check, monkeypatch):
    read, original = [], ClipReader.read
    monkeypatch.setattr(ClipReader, "read", lambda self, indices: (read.append(indices), original(self, indices))[1])
    first, second, third = jobs({}, {"num_steps": 4}, {"num_frames": 9})
    for job in (first, second, first):
        check.read(job)
    assert len(read) == 1
    check.read(third)
    assert len(read) == 2


def test_the_fault_of_a_job_is_raised(clip, jobs, check):
    (clip.parent / "text.mp4").write_text("no video")
    odd, short, text = jobs({"num_frames": 6}, {"num_frames": 13}, {"clip": "text.mp4"})
    with pytest.raises(UserError, match="6"):
        check.read(odd)
    with pytest.raises(TooShortError) as caught:
        check.read(short)
    assert caught.value.num_frames == 9
    check.read(cut(short, 9))
    with pytest.raises(ClipError, match=r"text\.mp4"):
        check.read(text)
