"""Distribute jobs over any number of processes that share only a folder."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial

from fastvmt_pl.callbacks.run_folder import METRICS
from fastvmt_pl.errors import UserError
from fastvmt_pl.files.locks import InUseError, locked
from fastvmt_pl.joblists.batches import Batch, batch_of
from fastvmt_pl.joblists.job import Job, Outcome
from fastvmt_pl.joblists.job_check import cut
from fastvmt_pl.joblists.job_runner import JobRunner
from fastvmt_pl.joblists.verdicts import Verdicts
from fastvmt_pl.processes.failures import FAILED, Failures, failure_of
from fastvmt_pl.runs.claims import claimed_folder

WAIT_SECONDS = 0.5
"""How long a process waits before it tries again the batches that others have taken."""


@dataclass
class JobQueue:
    """The batches of a list, for one of the processes that work on it.

    A process locks a batch, and the folders of its jobs, while it works on them. The kernel releases the locks of a
    process that dies, and another process takes over its unfinished jobs.

    Args:
        runner: Runs batches in this process.
        batches: All batches of the list, in the order in which this process tries them.
        verdicts: Verdicts on the jobs.
        after: Called after each batch that this process has tried.
    """

    runner: JobRunner
    batches: Sequence[Batch]
    verdicts: Verdicts
    after: Callable[[], None] = lambda: None

    def __post_init__(self) -> None:
        """Ignore failures from before this process began."""
        self.jobs = self.runner.folder / "jobs"
        self.failures = Failures(self.jobs)

    def is_done(self, job: Job) -> bool:
        """Return whether a job is finished."""
        return (self.jobs / job.name / METRICS).exists()

    def failure(self, job: Job) -> str | None:
        """Return why a job failed, in any process, since this process began; ``None`` if it did not."""
        return self.failures.reason(self.jobs / job.name)

    def outcome(self, job: Job) -> Outcome:
        """Return the outcome of a job."""
        found = self.verdicts.outcome(job)
        if self.is_done(job):
            detail = found.detail if found.status == "open" else ""
            return Outcome(job.name, "done", detail, str(self.jobs / job.name / "output.mp4"))
        reason = self.failure(job)
        return found if reason is None else Outcome(job.name, "failed", reason)

    def work(self, to_the_end: bool) -> None:
        """Run the batches that no other process has taken.

        Args:
            to_the_end: Wait for batches that others have taken, and take them over if those processes die.

        Raises:
            Preempted: If this process was asked to stop.
        """
        self.runner.expect([job for batch in self.batches for job in batch.jobs if not self.is_done(job)])
        batches = list(self.batches)
        while batches:
            taken = []
            for batch in batches:
                self.runner.request.check()
                if self._attempt(batch):
                    taken.append(batch)
            batches = taken if to_the_end else []
            if batches:
                time.sleep(WAIT_SECONDS)

    def _attempt(self, batch: Batch) -> bool:
        """Run the open jobs of a batch; return whether another process has some of them."""
        if self._is_settled(batch):
            return False
        try:
            with locked(self.runner.folder_of(batch)):
                is_taken = any([self._take(part, num_frames) for num_frames, part in self._parts(batch).items()])
        except InUseError:
            return True
        self.after()
        return is_taken

    def _parts(self, batch: Batch) -> dict[int | None, Batch]:
        """Return the jobs of a batch that can run, in a batch for each number of frames that they are limited to."""
        parts: dict[int | None, list[Job]] = {}
        if self._is_settled(batch):  # another process has run it meanwhile
            return {}
        for job in batch.jobs:
            is_new, verdict = self.verdicts.known(job) is None, self.verdicts.of(job)
            if verdict.status != "refused":
                parts.setdefault(verdict.num_frames, []).append(job)
            elif is_new:
                print(f"refused: {job.name}: {verdict.detail}", flush=True)
        return {
            num_frames: batch if len(jobs) == len(batch.jobs) else batch_of(jobs, batch.cost)
            for num_frames, jobs in parts.items()
        }

    def _take(self, batch: Batch, num_frames: int | None) -> bool:
        """Run a batch unless another process uses the folder of one of its jobs; return whether one does."""
        batch = replace(batch, jobs=tuple(cut(job, num_frames) for job in batch.jobs))
        with self._claimed(batch) as is_free:
            if is_free:
                self._run(batch)
        return not is_free

    def _is_settled(self, batch: Batch) -> bool:
        """Return whether every job of a batch is finished, failed or refused."""
        return not any(map(self._is_open, batch.jobs))

    def _is_open(self, job: Job) -> bool:
        return not self.is_done(job) and self.failure(job) is None and self.verdicts.outcome(job).status == "open"

    @contextmanager
    def _claimed(self, batch: Batch) -> Iterator[bool]:
        """Lock the folders of all jobs of a batch, or none. A job whose folder cannot be used has failed."""
        with ExitStack() as stack:
            for job in batch.jobs:
                try:
                    stack.enter_context(claimed_folder(self.jobs / job.name, job.identify, job=job.described()))
                except InUseError:
                    stack.close()
                    yield False
                    return
                except (UserError, OSError) as error:
                    self._record(job, str(error))
            yield True

    def _run(self, batch: Batch) -> None:
        """Run a locked batch. If that fails, run its jobs one by one, so that only the faulty ones fail."""
        if self._is_settled(batch):
            return
        if len(batch.jobs) == 1:
            reason = failure_of(partial(self.runner.run, batch))
            if reason is not None:
                self._record(batch.jobs[0], reason)
        elif not self._is_whole(batch) or failure_of(partial(self.runner.run, batch)) is not None:
            for number, job in enumerate(batch.jobs):
                self._run(Batch((job,), batch.cost, f"{batch.key}-{number}"))

    def _is_whole(self, batch: Batch) -> bool:
        """Return whether a batch can run side by side: no job has failed, and it was begun or no job is finished.

        A batch that was killed while it wrote its results writes the rest of them.
        """
        failed = any((self.jobs / job.name / FAILED).exists() or self.failure(job) for job in batch.jobs)
        return not failed and (self.runner.is_begun(batch) or not any(map(self.is_done, batch.jobs)))

    def _record(self, job: Job, reason: str) -> None:
        print(f"failed: {job.name}: {reason}", flush=True)
        self.failures.record(self.jobs / job.name, reason)
