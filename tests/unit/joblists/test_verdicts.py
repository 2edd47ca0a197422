from dataclasses import replace

import pytest

from fastvmt_pl.clips.video_writing import write_video
from fastvmt_pl.joblists.verdicts import Verdicts
from fastvmt_pl.toy import ToyWorld


def test_what_was_found_good_is_known_to_others_until_the_clip_changes(clip, jobs, check, composed, tmp_path):
    (long,) = jobs({"num_frames": 13})
    found = Verdicts(tmp_path, check).of(long)
    assert (found.status, found.num_frames) == ("trimmed", 9)
    assert composed == ["0", "0"]  # as it is, and cut
    assert Verdicts(tmp_path, check).known(replace(long, name="b", prompt="y")) == found
    write_video(clip, ToyWorld(11, num_objects=1)[0].frames, 8.0)
    assert Verdicts(tmp_path, check).known(long) is None
    assert Verdicts(tmp_path, check).of(long).status == "kept"


def test_a_refusal_is_known_to_those_that_had_begun(jobs, check, tmp_path):
    (tmp_path / "a.mp4").write_text("no video")
    one, other = Verdicts(tmp_path, check), Verdicts(tmp_path, check)
    (bad,) = jobs({})
    assert other.known(bad) is None
    assert one.of(bad).status == "refused"
    assert other.known(bad) == one.known(bad)
    assert Verdicts(tmp_path, check).known(bad) is None  # a later start looks again


@pytest.mark.parametrize(("num_frames", "status"), [(5, "kept"), (13, "trimmed"), (6, "refused")])
def test_a_job_that_has_not_run_is_open_unless_it_cannot_run(clip, jobs, check, tmp_path, num_frames, status):
    verdicts, (job,) = Verdicts(tmp_path, check), jobs({"num_frames": num_frames})
    assert verdicts.outcome(job).status == "open"  # nothing is known
    assert verdicts.of(job).status == status
    outcome = verdicts.outcome(job)
    assert outcome.status == ("refused" if status == "refused" else "open")
    assert bool(outcome.detail) == (status != "kept")
