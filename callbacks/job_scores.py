"""Score the videos of a transfer before they are encoded."""

import json
import math
from collections.abc import Callable, Mapping, Sequence

from lightning import Callback, LightningModule, Trainer

from fastvmt_pl.callbacks.run_folder import METRICS, RunFolder
from fastvmt_pl.callbacks.trainer_parts import datamodule_of
from fastvmt_pl.clips import Clip
from fastvmt_pl.evaluation.finished_runs import SCORES
from fastvmt_pl.evaluation.scores import score_transfer
from fastvmt_pl.evaluation.tracks import Frames
from fastvmt_pl.files.atomic import write_text
from fastvmt_pl.method.motion_transfer import MotionTransfer

Judge = Callable[[Frames], Mapping[str, float]]
"""Returns further scores of a video, for example from ground truth."""


class JobScores(Callback):
    """Writes ``scores.json`` for each job at the end of a transfer, from the pictures in memory.

    List it after :class:`~fastvmt_pl.callbacks.Costs`, whose clock has then stopped, and before the run folder, whose
    ``metrics.json`` marks a job as finished.

    Args:
        folder: The callback that has the jobs' folders.
        judges: Further scores of each job's video, or ``None``.
    """

    def __init__(self, folder: RunFolder, judges: Sequence[Judge | None]) -> None:
        self.folder, self.judges = folder, judges

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Score every job that is not finished, if the module has a result."""
        assert isinstance(pl_module, MotionTransfer)
        result = pl_module.result
        if result is None:
            return
        clips: Sequence[Clip] = datamodule_of(trainer).clips
        baselines = [None] * len(clips) if result.baseline is None else result.baseline
        jobs = zip(self.folder.job_folders or [], self.judges, clips, result.frames, baselines, strict=True)
        for folder, judge, clip, frames, baseline in jobs:
            if (folder / METRICS).exists():  # written by a batch that was killed while writing
                continue
            known = {} if judge is None else judge(frames)
            scores = {**known, **score_transfer(clip, frames, baseline)}
            judged = {name: value if math.isfinite(value) else None for name, value in scores.items()}
            write_text(folder / SCORES, json.dumps([judged], indent=1) + "\n")
