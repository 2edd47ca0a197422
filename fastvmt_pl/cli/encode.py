"""``fastvmt encode``."""

from typing import Any

from fastvmt_pl.cli.words import Command
from fastvmt_pl.runs.encode_run import encode

DETAIL = """Videos and captions that cannot be used are named, counted and skipped.

Example: fastvmt encode videos.tar data --size 480x832"""


def run(**options: Any) -> None:
    """Encode, and say what came of each file."""
    for done in encode(**options):
        print(f"{done.tar}: {done.num_samples} videos encoded, {len(done.problems)} skipped", flush=True)
        for problem in done.problems:
            print(f"skipped: {problem}", flush=True)


COMMAND = Command(DETAIL, encode, run)
