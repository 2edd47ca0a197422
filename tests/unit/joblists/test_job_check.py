from dataclasses import replace

import pytest

from fastvmt_pl.clips.video_writing import write_video
from fastvmt_pl.joblists import job_check
from fastvmt_pl.joblists.job_check import Checks, check_settings
from fastvmt_pl.joblists.job_list import read_jobs
from fastvmt_pl.joblists.job_runner import JobRunner
from fastvmt_pl.processes.ranks import Rank
from fastvmt_pl.processes.stop_request import StopRequest
from fastvmt_pl.toy import ToyWorld

FAST = {"num_frames": 5, "num_steps": 2, "num_guided_steps": 0, "baseline": False}


@pytest.fixture
def clip(tmp_path):
    """A clip of nine frames."""
    write_video(tmp_path / "a.mp4", ToyWorld(11, num_objects=1)[0].frames[:9], 8.0)
    return tmp_path / "a.mp4"


@pytest.fixture
def jobs(tmp_path):
    """The jobs of some rows, named by their places."""

    def jobs(*rows):
        path = tmp_path / "jobs.csv"
        columns = list(dict.fromkeys(["clip", "prompt", *(name for row in rows for name in row)]))
        lines = [[str({"clip": "a.mp4", "prompt": "x", **row}.get(name, "")) for name in columns] for row in rows]
        named = [["name", *columns], *([str(number), *line] for number, line in enumerate(lines))]
        path.write_text("\n".join(",".join(line) for line in named))
        found, refused = read_jobs(path, FAST, tmp_path)
        assert not refused
        return found

    return jobs


@pytest.fixture
def composed(tmp_path):
    """A function that composes transfers, and what it was asked for: jobs, and whether their clips were read."""
    asked, runner = [], JobRunner(tmp_path, Rank(0, 0, False), StopRequest())

    def compose(some, read_clips):
        asked.append((some[0].name, read_clips))
        return runner.compose(some, read_clips)

    return compose, asked


def test_settings_are_checked_once_a_kind_and_no_clip_is_read(clip, jobs, composed):
    compose, asked = composed
    (clip.parent / "empty.mp4").write_bytes(b"")
    good, slow, odd = {}, {"num_steps": 4}, {"num_frames": 6}
    listed = jobs(good, good, slow, good, slow, odd, odd, {"clip": "none.mp4"}, {"clip": "empty.mp4"}, {"clip": "."})
    able, refused, costs = check_settings(listed, compose, StopRequest())
    assert [job.name for job in able] == ["0", "1", "2", "3", "4"]
    reasons = {refusal.name: refusal.reason for refusal in refused}
    assert sorted(reasons) == ["5", "6", "7", "8", "9"]
    assert "num_frames" in reasons["5"]
    assert "none.mp4" in reasons["7"]
    assert costs == {able[0].kind: 5 * 48 * 48 * 2 * 2, able[2].kind: 5 * 48 * 48 * 4 * 2}
    assert asked == [("0", False), ("2", False), ("5", False)]


def test_the_check_of_very_many_kinds_is_left_to_their_jobs(clip, jobs, composed, monkeypatch):
    monkeypatch.setattr(job_check, "NUM_KINDS", 1)
    listed = jobs({}, {"num_steps": 3}, {"num_frames": 6})
    able, _, costs = check_settings(listed, composed[0], StopRequest())
    assert able == listed
    assert list(costs) == [listed[0].kind]


def test_what_was_found_good_is_known_to_others_until_the_clip_changes(clip, jobs, composed, tmp_path):
    compose, asked = composed
    (long,) = jobs({"num_frames": 13})
    found = Checks(tmp_path, compose).verdict([long])
    assert (found.status, found.num_frames) == ("trimmed", 9)
    assert asked == [("0", True)] * 2  # as it is, and cut
    assert Checks(tmp_path, compose).verdict([replace(long, name="b", prompt="y")]) == found
    assert len(asked) == 2
    write_video(clip, ToyWorld(11, num_objects=1)[0].frames, 8.0)
    assert Checks(tmp_path, compose).verdict([long]).status == "kept"


def test_a_refusal_is_known_to_those_that_had_begun(jobs, composed, tmp_path):
    (tmp_path / "a.mp4").write_text("no video")
    one, other = Checks(tmp_path, composed[0]), Checks(tmp_path, composed[0])
    (bad,) = jobs({})
    assert other.known(bad) is None
    assert one.verdict([bad]).status == "refused"
    assert other.known(bad) == one.known(bad)
    assert Checks(tmp_path, composed[0]).known(bad) is None  # a later start looks again
