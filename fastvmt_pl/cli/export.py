"""``fastvmt export``."""

from typing import Any

from fastvmt_pl.cli.words import Command
from fastvmt_pl.runs.export_run import export

DETAIL = """Example: fastvmt export runs/motion/checkpoints/last.ckpt runs/motion/config.yaml loras/motion"""


def run(**options: Any) -> None:
    """Export, and say where the LoRA is."""
    print(f"the LoRA is in {export(**options)}")


COMMAND = Command(DETAIL, export, run)
