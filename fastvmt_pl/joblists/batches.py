"""Which jobs run side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

from fastvmt_pl.joblists.job import Job, stamp_of

BATCH_SIZE = 4
"""The most jobs that run side by side, unless told otherwise."""


@dataclass(frozen=True)
class Batch:
    """Jobs that run side by side.

    Attributes:
        jobs: The jobs, with the same settings.
        cost: What they cost, to compare it with others.
        key: A name that follows from the jobs and their clips alone.
    """

    jobs: tuple[Job, ...]
    cost: int
    key: str

    def part(self, jobs: Sequence[Job]) -> "Batch":
        """Return some of the jobs as a batch of their own, whose key says which they are."""
        return self if tuple(jobs) == self.jobs else batch_of(jobs, self.cost)

    @property
    def names(self) -> str:
        """The names of the jobs."""
        return ", ".join(job.name for job in self.jobs)


def batch_of(jobs: Sequence[Job], cost: int, stamps: Mapping[str, str] | None = None) -> Batch:
    """Return a batch of some jobs; its key does not name the clips' paths, so that a list may be moved with them.

    Args:
        jobs: Jobs with the same settings.
        cost: What they cost.
        stamps: What :func:`~fastvmt_pl.joblists.job.stamp_of` returns for the clips that are known, by their paths.
    """
    known = stamps or {}
    clips = [known.get(str(job.clip)) or stamp_of(job.clip) for job in jobs]
    described = [jobs[0].shared, *dict.fromkeys(clips), *(f"{job.name} {job.prompt} {job.seed}" for job in jobs)]
    return Batch(tuple(jobs), cost, sha256("\0".join(described).encode()).hexdigest()[:16])


def make_batches(
    jobs: Sequence[Job], costs: Mapping[str, int], batch_size: int, across_clips: bool = False
) -> list[Batch]:
    """Return the jobs in batches, the most expensive first, so that all processes end at about the same time.

    Which jobs make a batch follows from the list alone, and so does not depend on the processes that run them.

    Args:
        jobs: Jobs that can run.
        costs: What a job of each kind costs; one of another kind is taken for as expensive as the most expensive.
        batch_size: The most jobs of a batch.
        across_clips: Whether jobs of different clips may be in a batch.
    """
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        groups.setdefault(job.shared if across_clips else job.group, []).append(job)
    highest = max(costs.values(), default=1)
    stamps = {str(clip): stamp_of(clip) for clip in {job.clip for job in jobs}}
    batches = []
    for members in groups.values():
        for start in range(0, len(members), batch_size):
            some = members[start : start + batch_size]
            batches.append(batch_of(some, costs.get(some[0].kind, highest) * len(some), stamps))
    return sorted(batches, key=lambda batch: -batch.cost)
