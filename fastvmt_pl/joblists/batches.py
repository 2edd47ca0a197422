"""Batches of jobs that run side by side, and their order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256

from fastvmt_pl.joblists.job import Job, stamp_of

BATCH_SIZE = 4
"""Default for the largest number of jobs that run side by side."""


@dataclass(frozen=True)
class Batch:
    """Jobs that run side by side.

    Attributes:
        jobs: The jobs, with the same settings.
        cost: Their relative cost.
        key: A name that depends on the jobs and their clips alone.
    """

    jobs: tuple[Job, ...]
    cost: int
    key: str


def batch_of(jobs: Sequence[Job], cost: int) -> Batch:
    """Return jobs with the same settings as a batch. Its key has no paths, so that a list can be moved."""
    files = dict.fromkeys(file for job in jobs for file in job.files)
    described = [
        jobs[0].shared,
        *map(stamp_of, files),
        *(f"{job.name} {job.prompt} {job.seed}" for job in jobs),
    ]
    return Batch(tuple(jobs), cost, sha256("\0".join(described).encode()).hexdigest()[:16])


def make_batches(
    jobs: Sequence[Job], costs: Mapping[str, int], batch_size: int, *, across_clips: bool = False, number: int = 0
) -> list[Batch]:
    """Return the jobs in batches, the most expensive first, so that all processes end at about the same time.

    The batches depend on the list alone, not on the processes that run them. Batches with the same backbone are
    adjacent, and processes start at different backbones.

    Args:
        jobs: Jobs that can run.
        costs: Cost of a job of each kind. Other kinds are assumed to cost as much as the most expensive.
        batch_size: Largest number of jobs in a batch.
        across_clips: Whether jobs of different clips may share a batch.
        number: Number of this process.
    """
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        groups.setdefault(job.shared if across_clips else job.group, []).append(job)
    parts = [some[start : start + batch_size] for some in groups.values() for start in range(0, len(some), batch_size)]
    highest = max(costs.values(), default=1)
    batches = [batch_of(some, costs.get(some[0].kind, highest) * len(some)) for some in parts]
    kinds: dict[str, list[Batch]] = {}
    for batch in sorted(batches, key=lambda batch: -batch.cost):
        kinds.setdefault(batch.jobs[0].backbone, []).append(batch)
    order = list(kinds.values())
    first = number % max(1, len(order))
    return [batch for some in (*order[first:], *order[:first]) for batch in some]
