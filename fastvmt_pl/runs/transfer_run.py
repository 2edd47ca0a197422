"""``fastvmt transfer``: from a clip and a prompt to a video."""

from pathlib import Path
from typing import Unpack

from fastvmt_pl.callbacks import Costs, RunFolder
from fastvmt_pl.clips import check_file
from fastvmt_pl.files.names import slug
from fastvmt_pl.method.transfer_jobs import TransferResult
from fastvmt_pl.processes.stop_request import StopRequest, listening
from fastvmt_pl.runs.claims import claimed_folder
from fastvmt_pl.runs.identity import identity_of
from fastvmt_pl.runs.transfer_options import TransferOptions, compose_transfer, fit


def transfer(
    clip: str, prompt: str, output: Path | None = None, seed: int = 0, **options: Unpack[TransferOptions]
) -> TransferResult:
    """Make a video that shows a prompt and moves as a clip moves.

    Writes a folder with the video, the same video without guidance, both beside the clip, pictures of the motion, and
    measures. A run that was stopped goes on where it was when it is started again with the same clip, model and
    settings; see :mod:`fastvmt_pl.runs.identity`. The device and the spelling of paths may differ.

    Args:
        clip: Video file, or folder of numbered pictures, whose motion is wanted.
        prompt: What the new video is to show: its content and look, not its motion.
        output: Folder for the results; by default one under runs/ that is named after clip, prompt and seed.
        seed: Seed of the noise.
        options: How; see :class:`~fastvmt_pl.runs.transfer_options.TransferOptions`.

    Returns:
        The video's latents and pictures, and the baseline's pictures.

    Raises:
        ValueError: If a setting, the clip, the model or the folder cannot be used; the message says what to change.
        Preempted: If SIGTERM or SIGUSR1 came; the same call goes on.
    """
    check_file(clip)
    folder = output or Path("runs") / slug(Path(clip).stem, prompt, str(seed))
    job = {"data.clips": [clip], "data.prompts": [prompt], "data.seed": seed}
    request = StopRequest()
    with listening(request):
        cli = compose_transfer(options, job, folder, [Costs(), RunFolder(folder)], request)
        config = cli.parser.dump(cli.config, skip_link_targets=False)
        with claimed_folder(folder, lambda files: identity_of(files["config"]), config=config):
            fit(cli, folder)
    result: TransferResult = cli.model.result
    print(f"the result is in {folder}")
    return result
