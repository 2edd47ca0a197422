import io

import pytest
from rich.console import Console

from fastvmt_pl.callbacks import TransferProgress


@pytest.fixture
def shown(fit):
    """What a run of two guided steps of four, and a baseline, prints."""

    def run(terminal):
        progress, output = TransferProgress(), io.StringIO()
        progress.console = Console(file=output, force_terminal=terminal, width=200)
        fit([progress], baseline=True, trainer={"enable_progress_bar": True})
        assert progress.progress is None  # the terminal is free again
        return output.getvalue()

    return run


def test_a_terminal_shows_where_the_run_is_to_its_end(shown):
    text = shown(True)
    for part in ("guided step 2/2 inner step 4/4 loss", "denoising the output", "denoising the baseline", "left"):
        assert part in text


def test_without_a_terminal_each_guided_step_and_video_is_a_line(shown):
    lines = shown(False).splitlines()
    assert [line.split(" loss")[0] for line in lines] == [
        "guided step 1/2",
        "guided step 2/2",
        "denoising the last 2 steps and the unguided baseline of 4 steps",
        "denoised the output",
        "denoised the baseline",
    ]
