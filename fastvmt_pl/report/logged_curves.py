"""Values that a run logged, read for a report."""

import csv
import math
from pathlib import Path


def read_curves(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return the losses and gradient measures that Lightning's CSVLogger wrote, by name, averaged over the run's jobs.

    Each start of the run has its own file. Where two files hold the same step, the later file counts.
    """
    found: dict[str, dict[int, float]] = {}
    for path in sorted(folder.glob("**/metrics.csv"), key=lambda path: path.stat().st_mtime):
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                for name, value in row.items():
                    shown = value and name.startswith(("loss", "gradients/cosine", "gradients/drift"))
                    if shown and math.isfinite(float(value)):
                        found.setdefault(name, {})[int(row["step"])] = float(value)
    return {name: sorted(values.items()) for name, values in found.items()}
