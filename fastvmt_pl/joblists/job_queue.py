"""Deal jobs out to any number of processes that share nothing but a folder."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path

from fastvmt_pl.callbacks.run_folder import METRICS
from fastvmt_pl.errors import UserError
from fastvmt_pl.files.locks import InUseError, locked
from fastvmt_pl.joblists.job_check import Checks, cut
from fastvmt_pl.joblists.job_list import Job, stamp_of
from fastvmt_pl.processes.sharing import FAILED, Failures, failure_of, share
from fastvmt_pl.processes.stop_request import StopRequest
from fastvmt_pl.runs.claims import claimed_folder


@dataclass(frozen=True)
class Batch:
    """Jobs that run side by side.

    Attributes:
        jobs: The jobs, of one clip and with the same settings.
        cost: What they cost, to compare it with others.
        key: A name that follows from the jobs and their clip alone.
    """

    jobs: tuple[Job, ...]
    cost: int
    key: str


def make_batches(jobs: Sequence[Job], costs: Mapping[str, int], batch_size: int) -> list[Batch]:
    """Return the jobs in batches, the most expensive first, so that all processes end at about the same time.

    Which jobs make a batch follows from the list alone, and so does not depend on the processes that run them.

    Args:
        jobs: Jobs that can run.
        costs: What a job of each kind costs; one of another kind is taken for as expensive as the most expensive.
        batch_size: The most jobs of a batch.
    """
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        groups.setdefault(job.group, []).append(job)
    highest = max(costs.values(), default=1)
    stamps = {clip: stamp_of(clip) for clip in {job.clip for job in jobs}}
    batches = []
    for members in groups.values():
        for start in range(0, len(members), batch_size):
            some = tuple(members[start : start + batch_size])
            personal = [f"{job.name} {job.prompt} {job.seed}" for job in some]
            described = [some[0].shared, stamps[some[0].clip], *personal]  # a list may be moved with its clips
            key = sha256("\0".join(described).encode()).hexdigest()[:16]
            batches.append(Batch(some, costs.get(some[0].kind, highest) * len(some), key))
    return sorted(batches, key=lambda batch: -batch.cost)


@dataclass
class JobQueue:
    """The batches of a list, for one of the processes that work on it.

    A process locks a batch, and the folders of its jobs, while it works on them. The kernel opens the locks of a
    process that dies, and what it had not finished is taken over.

    Args:
        folder: The list's folder.
        batches: All batches of the list, in the order in which this process tries them.
        checks: What is known of the clips.
        run: Runs a batch.
        is_begun: Whether a batch has a checkpoint.
        request: Whether this process was asked to stop.
    """

    folder: Path
    batches: Sequence[Batch]
    checks: Checks
    run: Callable[[Batch], None]
    is_begun: Callable[[Batch], bool]
    request: StopRequest

    def __post_init__(self) -> None:
        """Note when this process began."""
        self.jobs = self.folder / "jobs"
        self.failures = Failures(self.jobs)

    def is_done(self, job: Job) -> bool:
        """Return whether a job is finished."""
        return Path(self.jobs / job.name / METRICS).exists()

    def failure(self, job: Job) -> str | None:
        """Return why a job failed, here or elsewhere since this process began."""
        return self.failures.reason(self.jobs / job.name)

    def work(self, to_the_end: bool) -> None:
        """Run what nobody has taken, until there is nothing left.

        Args:
            to_the_end: Wait for what others have taken, and take over what they leave when they die.

        Raises:
            Preempted: If this process was asked to stop.
        """
        share(self.batches, self._attempt, self.request, to_the_end=to_the_end)

    def _attempt(self, batch: Batch) -> bool:
        """Run a batch that is open, if its clip can be read; return whether another process is at it."""
        if not self._open(batch):
            return False
        with ExitStack() as stack:
            try:
                stack.enter_context(locked(self.folder / "batches" / batch.key))
            except InUseError:
                return True
            if not self._open(batch):  # another process has done it meanwhile
                return False
            verdict = self.checks.verdict(batch.jobs)
            if verdict.status == "refused":
                print(f"refused: {', '.join(job.name for job in batch.jobs)}: {verdict.detail}", flush=True)
                return False
            batch = replace(batch, jobs=tuple(cut(batch.jobs, verdict.num_frames)))
            if not stack.enter_context(self._claimed(batch)):
                return True
            self._run(batch)
            return False

    def _open(self, batch: Batch) -> bool:
        """Return whether a batch has a job that is neither finished nor failed, and was not refused."""
        if self._is_settled(batch):
            return False
        known = self.checks.known(batch.jobs[0])
        return known is None or known.status != "refused"

    def _is_settled(self, batch: Batch) -> bool:
        return all(self.is_done(job) or self.failure(job) is not None for job in batch.jobs)

    @contextmanager
    def _claimed(self, batch: Batch) -> Iterator[bool]:
        """Lock the folders of a batch's jobs, or none of them; a job whose folder cannot be had has failed."""
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
        """Run a batch that is locked; if one of its jobs fails, the others alone, so that the good ones are done."""
        if self._is_settled(batch):
            return
        reason = None
        if len(batch.jobs) == 1 or self._is_whole(batch):
            reason = failure_of(partial(self.run, batch))
            if reason is None:
                return
        if len(batch.jobs) == 1:
            self._record(batch.jobs[0], str(reason))
        else:
            for number, job in enumerate(batch.jobs):
                self._run(Batch((job,), batch.cost, f"{batch.key}-{number}"))

    def _is_whole(self, batch: Batch) -> bool:
        """Return whether a batch is to run side by side: as none of its jobs ever failed, and none or all are to do.

        One that was killed while it wrote its results is to write the rest of them.
        """
        failed = any((self.jobs / job.name / FAILED).exists() or self.failure(job) for job in batch.jobs)
        return not failed and (self.is_begun(batch) or not any(map(self.is_done, batch.jobs)))

    def _record(self, job: Job, reason: str) -> None:
        print(f"failed: {job.name}: {reason}", flush=True)
        self.failures.record(self.jobs / job.name, reason)
