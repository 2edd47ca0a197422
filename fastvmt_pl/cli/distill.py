"""``fastvmt distill``."""

from typing import Any

from fastvmt_pl.cli.words import Command
from fastvmt_pl.processes.stop_request import StopRequest, listening
from fastvmt_pl.runs.distill_run import distill

DETAIL = """Makes guided samples of many prompts that move as the clip moves, trains a LoRA on them, on the clip, or on
both, and writes it for diffusers and ComfyUI, verified, with a model card. A run that was stopped continues where it
was when it is started again with the same settings. The default of an option without one is the config's.

Example: fastvmt distill clip.mp4 "a red circle on a gray background" --output runs/motion"""


def run(**options: Any) -> None:
    """Distil, and say where the LoRA is."""
    request = StopRequest()
    with listening(request):
        folder = distill(**options, request=request, progress=True)
    print(f"the LoRA is in {folder}")


COMMAND = Command(DETAIL, distill, run, frozenset({"request", "progress"}))
