"""Deal jobs out to any number of processes that share nothing but a folder."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from itertools import groupby
from pathlib import Path

from fastvmt_pl.callbacks.run_folder import METRICS
from fastvmt_pl.commands.job_check import Verdict, cut
from fastvmt_pl.commands.job_list import Job
from fastvmt_pl.commands.options import InUseError, claimed_folder
from fastvmt_pl.commands.sharing import FAILED, Failures, failure_of, share
from fastvmt_pl.preemption import StopRequest


@dataclass(frozen=True)
class Batch:
    """Jobs that run side by side.

    Attributes:
        jobs: The jobs, of one clip and with the same settings.
        cost: What they cost, to compare it with others.
    """

    jobs: tuple[Job, ...]
    cost: int

    @property
    def key(self) -> str:
        """A name that depends on the jobs and the content of their clip alone."""
        return sha256(json.dumps([job.identity for job in self.jobs]).encode()).hexdigest()[:16]


def make_batches(jobs: Sequence[Job], verdicts: Mapping[str, Verdict], batch_size: int) -> list[Batch]:
    """Return the jobs in batches, the most expensive first, so that no process ends long behind the others.

    They follow from the list alone, and so do not depend on who runs them.

    Args:
        jobs: Jobs that can run.
        verdicts: What was found out about each group of them.
        batch_size: The most jobs of a batch.
    """
    batches = []
    for group, members in groupby(sorted(jobs, key=lambda job: job.group), key=lambda job: job.group):
        verdict = verdicts[group]
        some = [cut(job, verdict.num_frames) for job in members]
        for start in range(0, len(some), batch_size):
            batch = tuple(some[start : start + batch_size])
            batches.append(Batch(batch, verdict.cost * len(batch)))
    return sorted(batches, key=lambda batch: (-batch.cost, batch.key))


@dataclass
class JobQueue:
    """The batches of a list, for one of the processes that work on it.

    A process locks the folders of a batch's jobs while it works on them. The kernel opens the locks of a process that
    dies, and what it had not finished is taken over.

    Args:
        folder: Folder with a folder for each job.
        batches: All batches of the list, the same in all processes.
        run: Runs a batch.
        is_begun: Whether a batch has a checkpoint.
        request: Whether this process was asked to stop.
    """

    folder: Path
    batches: Sequence[Batch]
    run: Callable[[Batch], None]
    is_begun: Callable[[Batch], bool]
    request: StopRequest

    def __post_init__(self) -> None:
        """Note when this process began."""
        self.failures = Failures(self.folder)

    def is_done(self, job: Job) -> bool:
        """Return whether a job is finished."""
        return Path(self.folder / job.name / METRICS).exists()

    def failure(self, job: Job) -> str | None:
        """Return why a job failed, here or elsewhere since this process began."""
        return self.failures.reason(self.folder / job.name)

    def work(self, to_the_end: bool) -> None:
        """Run what nobody has taken, until there is nothing left.

        Args:
            to_the_end: Wait for what others have taken, and take over what they leave when they die.

        Raises:
            Preempted: If this process was asked to stop.
        """
        share(self.batches, self._attempt, self.request, to_the_end=to_the_end)

    def _attempt(self, batch: Batch) -> bool:
        """Run a batch that is open; return whether another process is at it."""
        if not self._open(batch):
            return False
        with self._claimed(batch) as claimed:
            if claimed:
                self._run(batch)
            return not claimed

    def _open(self, batch: Batch) -> bool:
        """Return whether a batch has a job that is neither finished nor failed."""
        return any(not self.is_done(job) and self.failure(job) is None for job in batch.jobs)

    @contextmanager
    def _claimed(self, batch: Batch) -> Iterator[bool]:
        """Lock the folders of a batch's jobs, or none of them; a job whose folder cannot be had has failed."""
        with ExitStack() as stack:
            for job in batch.jobs:
                try:
                    stack.enter_context(claimed_folder(self.folder / job.name, job.identify, job=job.described()))
                except InUseError:
                    stack.close()
                    yield False
                    return
                except (ValueError, OSError) as error:
                    self._record(job, str(error))
            yield True

    def _run(self, batch: Batch) -> None:
        """Run a batch that is locked; if one of its jobs fails, the others alone, so that the good ones are done."""
        if not self._open(batch):  # another process has done it meanwhile
            return
        reason = None
        if len(batch.jobs) == 1 or self._is_whole(batch):
            reason = failure_of(partial(self.run, batch))
            if reason is None:
                return
        if len(batch.jobs) == 1:
            self._record(batch.jobs[0], str(reason))
        else:
            for job in batch.jobs:
                self._run(Batch((job,), batch.cost))

    def _is_whole(self, batch: Batch) -> bool:
        """Return whether a batch is to run side by side: as none of its jobs ever failed, and none or all are to do.

        One that was killed while it wrote its results is to write the rest of them.
        """
        failed = any((self.folder / job.name / FAILED).exists() or self.failure(job) for job in batch.jobs)
        return not failed and (self.is_begun(batch) or not any(map(self.is_done, batch.jobs)))

    def _record(self, job: Job, reason: str) -> None:
        print(f"failed: {job.name}: {reason}", flush=True)
        self.failures.record(self.folder / job.name, reason)
