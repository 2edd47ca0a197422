"""Queues of jobs that a stand-in runs: nothing but files, locks and failures."""

import signal
from contextlib import ExitStack
from pathlib import Path

import pytest

from fastvmt_pl.callbacks.run_folder import METRICS
from fastvmt_pl.clips import ClipError, TooShortError
from fastvmt_pl.files.locks import locked
from fastvmt_pl.joblists import job_queue
from fastvmt_pl.joblists.batches import batch_of
from fastvmt_pl.joblists.job import Job
from fastvmt_pl.joblists.job_check import JobCheck
from fastvmt_pl.joblists.job_queue import JobQueue
from fastvmt_pl.joblists.job_runner import JobRunner
from fastvmt_pl.joblists.verdicts import Verdicts
from fastvmt_pl.processes.ranks import Rank
from fastvmt_pl.processes.stop_request import Preempted, StopRequest


class Runner(JobRunner):
    """Finishes jobs without running them, but for those that fail."""

    def __init__(self, folder, failing=()):
        super().__init__(folder, Rank(0, 0, False), StopRequest())
        self.failing, self.ran = set(failing), []

    def run(self, batch):
        names = [job.name for job in batch.jobs]
        self.ran.append((names, batch.jobs[0].settings.get("data.num_frames")))
        if self.failing & set(names):
            raise RuntimeError("no memory")
        for name in names:
            (self.folder / "jobs" / name / METRICS).write_text("{}")


class ClipsByName(JobCheck):
    """Finds the clip 'bad' unreadable and 'short' to have nine frames; counts what it reads."""

    def __init__(self):
        super().__init__(lambda job: pytest.fail("nothing is composed"))
        self.read_clips = []

    def read(self, job):
        self.read_clips.append(job.clip.name)
        if job.clip.name == "bad":
            raise ClipError("bad is no video")
        if job.clip.name == "short" and "data.num_frames" not in job.settings:
            raise TooShortError("short has 9 frames", 9)


@pytest.fixture
def jobs():
    return [Job(name, Path(clip), "x") for name, clip in {"a": "1", "b": "bad", "c": "short", "d": "2"}.items()]


@pytest.fixture
def make_queue(tmp_path):
    (tmp_path / "jobs").mkdir()

    def make(*batches, failing=(), **options):
        runner = Runner(tmp_path, failing)
        batches = [batch_of(jobs, 1) for jobs in batches]
        return JobQueue(runner, batches, Verdicts(tmp_path, ClipsByName()), **options), runner

    return make


def statuses(queue, jobs):
    return {job.name: queue.outcome(job).status for job in jobs}


def test_a_bad_or_short_clip_of_a_batch_affects_its_own_job_alone(make_queue, jobs):
    queue, runner = make_queue(jobs)
    queue.work(to_the_end=True)
    assert runner.ran == [(["a", "d"], None), (["c"], 9)]
    assert statuses(queue, jobs) == {"a": "done", "b": "refused", "c": "done", "d": "done"}
    assert "bad" in queue.outcome(jobs[1]).detail
    assert "9" in queue.outcome(jobs[2]).detail


def test_a_clip_is_read_again_at_a_later_start_only_if_it_was_refused(make_queue, jobs):
    make_queue(jobs)[0].work(to_the_end=True)
    queue, runner = make_queue(jobs)
    queue.work(to_the_end=True)
    assert queue.verdicts.check.read_clips == ["bad"]
    assert runner.ran == []


def test_of_a_batch_that_fails_each_job_runs_alone_and_the_good_ones_are_done(make_queue, jobs):
    some = [jobs[0], jobs[3]]
    here, runner = make_queue(some, failing=["a"])
    there, _ = make_queue(some)
    here.work(to_the_end=True)
    assert runner.ran == [(["a", "d"], None), (["a"], None), (["d"], None)]
    assert statuses(here, some) == statuses(there, some) == {"a": "failed", "d": "done"}
    assert there.outcome(jobs[0]).detail == "no memory"
    there.work(to_the_end=True)
    assert there.runner.ran == []  # it had begun by then
    later, runner = make_queue(some)
    later.work(to_the_end=True)
    assert runner.ran == [(["a"], None)]
    assert statuses(later, some) == {"a": "done", "d": "done"}


def test_a_job_whose_folder_cannot_be_made_fails_alone(make_queue, jobs, tmp_path):
    (tmp_path / "jobs" / "a").write_text("in the way")
    queue, runner = make_queue([jobs[0], jobs[3]])
    queue.work(to_the_end=True)
    assert runner.ran == [(["d"], None)]
    assert statuses(queue, [jobs[0], jobs[3]]) == {"a": "failed", "d": "done"}


def test_what_others_are_at_is_left_to_them_unless_the_process_stays_to_the_end(make_queue, jobs, monkeypatch):
    queue, runner = make_queue([jobs[0]], [jobs[3]])
    with ExitStack() as other:
        other.enter_context(locked(runner.folder_of(queue.batches[0])))
        queue.work(to_the_end=False)
        assert runner.ran == [(["d"], None)]
        monkeypatch.setattr(job_queue.time, "sleep", lambda seconds: other.close())  # as if it had died
        queue.work(to_the_end=True)
    assert runner.ran == [(["d"], None), (["a"], None)]


def test_a_process_that_is_asked_to_stop_takes_nothing_more(make_queue, jobs):
    queue, runner = make_queue([jobs[0]], [jobs[3]])
    queue.after = lambda: setattr(runner.request, "received", signal.SIGTERM)
    with pytest.raises(Preempted):
        queue.work(to_the_end=True)
    assert runner.ran == [(["a"], None)]
