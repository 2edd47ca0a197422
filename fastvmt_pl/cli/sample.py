"""``fastvmt sample``."""

from typing import Any

from rich.console import Console
from rich.progress import Progress

from fastvmt_pl.cli.words import Command
from fastvmt_pl.runs.sample_run import sample

DETAIL = """Writes a folder with the video and all settings.

Example: fastvmt sample "a blue cross on a navy background" --loras runs/motion/lora"""


def run(**options: Any) -> None:
    """Sample, and say where the video is."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("denoising", total=None)
        video = sample(**options, on_step=lambda num_steps: progress.update(task, total=num_steps, advance=1))
    print(f"the result is in {video.parent}")


COMMAND = Command(DETAIL, sample, run, frozenset({"on_step"}))
