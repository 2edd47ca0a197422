"""What became of the jobs of a list: what is printed, and ``results.csv``."""

import csv
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from fastvmt_pl.errors import UserError
from fastvmt_pl.files.atomic import written_whole
from fastvmt_pl.joblists.job_check import Checks, Verdict
from fastvmt_pl.joblists.job_list import Job, Refusal
from fastvmt_pl.joblists.job_queue import JobQueue


@dataclass(frozen=True)
class Outcome:
    """What became of a job of a list.

    Attributes:
        name: Its name, or its place in the list.
        status: Finished, failed, refused since it cannot run, or not finished yet.
        detail: Why it failed or was refused, or what was changed.
        video: Its video.
    """

    name: str
    status: Literal["done", "failed", "refused", "open"]
    detail: str = ""
    video: str = ""


def outcome_of(job: Job, checks: Checks, queue: JobQueue | None = None) -> Outcome:
    """Return what became of a job; without a queue, nothing has run."""
    verdict = checks.known(job) or Verdict("kept")
    detail = "" if verdict.num_frames is None else f"trimmed to {verdict.num_frames} frames"
    if queue is not None and queue.is_done(job):
        return Outcome(job.name, "done", detail, str(queue.jobs / job.name / "output.mp4"))
    if queue is not None and queue.failure(job) is not None:
        return Outcome(job.name, "failed", queue.failure(job) or "")
    if verdict.status == "refused":
        return Outcome(job.name, "refused", verdict.detail)
    return Outcome(job.name, "open", detail)


def refused(refusal: Refusal) -> Outcome:
    """Return what became of a job that could not run."""
    return Outcome(refusal.name, "refused", refusal.reason)


def report(jobs: Sequence[Job], outcomes: Sequence[Outcome], checks: Checks) -> None:
    """Print which jobs run as they are, which with fewer frames, and which do not run, and why."""
    known = {job.name: checks.known(job) for job in jobs}
    trimmed = {name: verdict for name, verdict in known.items() if verdict and verdict.status == "trimmed"}
    bad = [outcome for outcome in outcomes if outcome.status == "refused"]
    kept = len(outcomes) - len(bad) - len(trimmed)
    clips = len({job.clip for job in jobs})
    print(f"{len(outcomes)} jobs: {kept} kept, {len(trimmed)} trimmed, {len(bad)} refused; {clips} clips")
    for name, verdict in trimmed.items():
        print(f"trimmed to {verdict.num_frames} frames: {name}: {verdict.detail}")
    for outcome in bad:
        print(f"refused: {outcome.name}: {outcome.detail}", flush=True)


def write_table(path: Path, outcomes: Sequence[Outcome]) -> None:
    """Write a row for each job to a CSV file."""
    with written_whole(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(Outcome.__annotations__))
        writer.writeheader()
        writer.writerows(asdict(outcome) for outcome in outcomes)


def conclude(outcomes: Sequence[Outcome], where: str) -> None:
    """Print how many jobs came to what.

    Raises:
        UserError: If none could run.
        RuntimeError: If some failed or were refused.
    """
    counts = Counter(outcome.status for outcome in outcomes)
    print(f"{where}; {', '.join(f'{count} {status}' for status, count in counts.items())}", flush=True)
    bad = [outcome for outcome in outcomes if outcome.status in ("failed", "refused")]
    if outcomes and counts["refused"] == len(outcomes):
        raise UserError(f"no job of the list can run: {bad[0].name}: {bad[0].detail}")
    if bad:
        names = ", ".join(outcome.name for outcome in bad)
        raise RuntimeError(f"{len(bad)} of {len(outcomes)} jobs failed or were refused: {names}")
