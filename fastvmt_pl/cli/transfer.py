"""``fastvmt transfer``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

from fastvmt_pl.callbacks import Preemption, TransferProgress
from fastvmt_pl.cli.words import Command
from fastvmt_pl.files.names import slug
from fastvmt_pl.joblists.transfer_list import transfer_jobs
from fastvmt_pl.processes.stop_request import StopRequest, listening
from fastvmt_pl.runs.transfer_options import TransferOptions
from fastvmt_pl.runs.transfer_run import run_transfer

DETAIL = """Writes a folder with the video (output.mp4), the same video without guidance (baseline.mp4), both beside the
clip (comparison.mp4), pictures of the motion, measures and all settings. A run that was stopped continues where it was
when it is started again with the same settings. The default of an option without one is the config's.

Example: fastvmt transfer clip.mp4 "a red circle on a gray background" --num-steps 30 --output runs/circle

Many at once, on any number of devices: fastvmt transfer --jobs FILE; see fastvmt transfer --jobs FILE --help."""


def command(args: Sequence[str]) -> Command:
    """Return the transfer of a clip, or of a list of jobs if there is one."""
    listed = any(arg.split("=")[0] == "--jobs" for arg in args)
    return Command(DETAIL, transfer_jobs if listed else transfer)


def transfer(
    clip: str, prompt: str, output: Path | None = None, seed: int = 0, **options: Unpack[TransferOptions]
) -> None:
    """Make a video that shows a prompt and moves as a clip moves.

    Args:
        clip: Video file, or folder of numbered pictures, whose motion is wanted.
        prompt: What the new video shows: its content and look, not its motion.
        output: Folder for the results. Default: one under runs/ that is named after clip, prompt and seed.
        seed: Seed of the noise.
        options: How; see :class:`~fastvmt_pl.runs.transfer_options.TransferOptions`.
    """
    folder, request = output or Path("runs") / slug(Path(clip).stem, prompt, str(seed)), StopRequest()
    with listening(request):
        run_transfer(
            clip, prompt, output=folder, seed=seed, callbacks=[TransferProgress(), Preemption(request)], **options
        )
    print(f"the result is in {folder}")
