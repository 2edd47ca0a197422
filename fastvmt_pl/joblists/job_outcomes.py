"""What became of the jobs of a list: what is printed, and ``results.csv``."""

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastvmt_pl.errors import UserError
from fastvmt_pl.files.atomic import written_whole
from fastvmt_pl.joblists.job import Job, Outcome
from fastvmt_pl.joblists.verdicts import Verdicts


def report(jobs: Sequence[Job], outcomes: Sequence[Outcome], verdicts: Verdicts) -> None:
    """Print which jobs run as they are, which with fewer frames, and which do not run, and why."""
    known = {job.name: verdicts.known(job) for job in jobs}
    trimmed = {name: verdict for name, verdict in known.items() if verdict and verdict.status == "trimmed"}
    bad = [outcome for outcome in outcomes if outcome.status == "refused"]
    kept = len(outcomes) - len(bad) - len(trimmed)
    clips = len({job.clip for job in jobs})
    print(f"{len(outcomes)} jobs: {kept} kept, {len(trimmed)} trimmed, {len(bad)} refused; {clips} clips")
    for name, verdict in trimmed.items():
        print(f"trimmed to {verdict.num_frames} frames: {name}: {verdict.detail}")
    for outcome in bad:
        print(f"refused: {outcome.name}: {outcome.detail}", flush=True)


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows to a CSV file, with a column for whatever any of them has."""
    with written_whole(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)


def conclude(outcomes: Sequence[Outcome], where: str) -> None:
    """Print how many jobs came to what.

    Args:
        outcomes: What became of each job.
        where: What else there is to say.

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
        named = [f"{outcome.name} ({outcome.detail})" for outcome in bad[:3]] + [outcome.name for outcome in bad[3:]]
        raise RuntimeError(f"{len(bad)} of {len(outcomes)} jobs failed or were refused: {', '.join(named)}")
