import pytest

from fastvmt_pl.clips.video_writing import write_video
from fastvmt_pl.joblists.job_check import JobCheck
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
    """Makes the jobs of some rows, named by their places."""

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
def composed():
    """The names of the jobs that were composed."""
    return []


@pytest.fixture
def check(tmp_path, composed):
    """Checks jobs by the transfers that they make."""
    runner = JobRunner(tmp_path, Rank(0, 0, False), StopRequest())
    return JobCheck(lambda job: (composed.append(job.name), runner.compose_settings(job))[1])
