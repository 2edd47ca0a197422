"""``fastvmt doctor``."""

from pathlib import Path

from fastvmt_pl.cli.words import Command
from fastvmt_pl.planning.machine import check_machine

DETAIL = """Prints a line for each thing: ok, warning or failure, and how to mend it. The exit code is 1 if one
fails."""


def doctor(folder: Path = Path("runs")) -> None:
    """Check everything that a run needs, and say what is missing and how to mend it.

    Args:
        folder: Where runs are written.

    Raises:
        RuntimeError: If something fails that a run needs.
    """
    failed = []
    for check in check_machine(folder):
        print(check, flush=True)
        failed += [check.name] if check.status == "failure" else []
    if failed:
        raise RuntimeError(f"{len(failed)} checks failed: {', '.join(failed)}; each line above says how to mend it")


COMMAND = Command(DETAIL, doctor)
