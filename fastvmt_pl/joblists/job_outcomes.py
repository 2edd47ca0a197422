"""Report the outcomes of jobs: on the screen, and in ``results.csv``."""

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fastvmt_pl.errors import UserError
from fastvmt_pl.files.atomic import written_whole
from fastvmt_pl.joblists.job import Outcome


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows to a CSV file, with a column for each name in any of them."""
    with written_whole(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(name for row in rows for name in row)))
        writer.writeheader()
        writer.writerows(rows)


def conclude(outcomes: Sequence[Outcome], where: str) -> None:
    """Print the number of jobs with each outcome, and the details of outcomes that have any.

    Args:
        outcomes: The outcome of each job.
        where: Where the results are.

    Raises:
        UserError: If no job could run.
        RuntimeError: If some failed or were refused.
    """
    for outcome in outcomes:
        if outcome.detail:
            print(f"{outcome.status}: {outcome.name}: {outcome.detail}")
    counts = Counter(outcome.status for outcome in outcomes)
    found = ", ".join(f"{count} {status}" for status, count in counts.items())
    print(f"{len(outcomes)} jobs: {found}; {where}", flush=True)
    bad = [outcome for outcome in outcomes if outcome.status in ("failed", "refused")]
    if outcomes and counts["refused"] == len(outcomes):
        raise UserError(f"no job can run: {bad[0].name}: {bad[0].detail}")
    if bad:
        named = [f"{outcome.name} ({outcome.detail})" for outcome in bad[:3]] + [outcome.name for outcome in bad[3:]]
        raise RuntimeError(f"{len(bad)} of {len(outcomes)} jobs failed or were refused: {', '.join(named)}")
