"""The jobs of an experiment: every clip and prompt under every setting."""

import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import torch

from fastvmt_pl.clips.video_writing import write_picture, write_video
from fastvmt_pl.experiments.experiment import ClipWithPrompt, Experiment, Overrides, ToyClips
from fastvmt_pl.files.names import words
from fastvmt_pl.joblists.job import Job, config_hash
from fastvmt_pl.runs.transfer_options import TransferOptions
from fastvmt_pl.toy.toy_jobs import ToyJob, toy_jobs
from fastvmt_pl.toy.toy_world import FPS

VERSION = 3
"""Part of the name of every job: raised when a setting or a score changes its meaning."""


@dataclass(frozen=True)
class Trial:
    """A clip and prompt of an experiment under one of its settings.

    Attributes:
        setting: Name of the setting.
        number: Place of the clip and prompt in the experiment, which is also the seed.
        job: The transfer.
        toy: What is true of the clip, if it is of the toy world.
    """

    setting: str
    number: int
    job: Job
    toy: ToyJob | None = None


def make_trials(plan: Experiment, folder: Path) -> list[Trial]:
    """Return all trials of an experiment, setting by setting; toy clips are written to a folder."""
    options = TransferOptions(config=Path(plan.config))
    config, sources, trials = config_hash(options), _sources(plan, folder), []
    for setting, overrides in plan.all_settings.items():
        settings = {"model.baseline": False, **plan.common, **overrides}
        for number, (source, toy, own) in enumerate(sources):
            name = f"{_short(setting, overrides)}-{number:03d}"
            image = None if source.image is None else source.image.resolve()
            changed = {**own, **settings}  # a setting may do without the region
            job = Job(name, source.clip.resolve(), source.prompt, number, options, changed, config, image)
            trials.append(Trial(setting, number, job, toy))
    return trials


def _short(setting: str, overrides: Overrides) -> str:
    """Return the name of a setting's jobs, which says what it overrides, so that a changed setting has other jobs."""
    described = json.dumps([VERSION, overrides], sort_keys=True)
    return f"{words(setting)}-{sha256(described.encode()).hexdigest()[:6]}"


def _sources(plan: Experiment, folder: Path) -> list[tuple[ClipWithPrompt, ToyJob | None, Overrides]]:
    """Return each clip with its prompt and image, what is true of it, and its own settings."""
    if not isinstance(plan.jobs, ToyClips):
        return [(one, None, {}) for one in plan.jobs]
    found = list[tuple[ClipWithPrompt, ToyJob | None, Overrides]]()
    for number, toy in enumerate(toy_jobs(**vars(plan.jobs))):
        digest = sha256(toy.clip.frames.numpy().tobytes()).hexdigest()[:8]
        file = folder / f"{number:03d}-{digest}.mp4"
        if not file.exists():
            write_video(file, toy.clip.frames, FPS)
        image = None
        if toy.image is not None:
            image = file.with_suffix(".png")
            if not image.exists():
                write_picture(image, toy.image)
        own: Overrides = {}
        if toy.region is not None:
            masks = file.with_suffix("")
            for frame, mask in enumerate(toy.region):
                if not (masks / f"{frame:02d}.png").exists():
                    write_picture(masks / f"{frame:02d}.png", (mask[..., None].expand(-1, -1, 3) * 255).to(torch.uint8))
            own["data.region"] = str(masks.resolve())
        if toy.place is not None:
            own["data.place"] = list(toy.place)
        found.append((ClipWithPrompt(file, toy.prompt, image), toy, own))
    return found
