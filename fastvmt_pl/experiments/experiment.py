"""What an experiment is: settings to compare, and jobs to compare them on."""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser

from fastvmt_pl.clips import content_hash
from fastvmt_pl.clips.video_writing import write_video
from fastvmt_pl.errors import UserError
from fastvmt_pl.files.tables import path_in_table, read_text
from fastvmt_pl.runs.options import CONFIGS
from fastvmt_pl.toy.toy_jobs import MOVING, Split, ToyJob, toy_jobs
from fastvmt_pl.toy.toy_world import FPS

Overrides = dict[str, Any]


@dataclass
class FileJob:
    """A job on a clip of one's own.

    Args:
        clip: Video file, or folder of numbered pictures; a relative path starts at the experiment's file, and ``~`` is
            the home folder.
        prompt: What the video is to show.
    """

    clip: Path
    prompt: str


@dataclass
class ToyJobs:
    """Jobs of the toy world, whose true paths are known; see :func:`~fastvmt_pl.toy.toy_jobs.toy_jobs`.

    Args:
        num_jobs: How many.
        split: Jobs for choosing settings, or those that nothing was chosen on.
        num_objects: Objects a clip.
        camera: Whether the camera moves.
        paths: Kinds of path.
    """

    num_jobs: int = 32
    split: Split = "tuning"
    num_objects: int = 1
    camera: bool = False
    paths: Sequence[str] = MOVING


@dataclass
class Experiment:
    """Settings to compare on the same jobs.

    Args:
        jobs: Clips and prompts, or how many of the toy world's; job n has the seed n.
        settings: What each setting overrides of the config, by dotted names, under a name of its own.
        grid: Values of settings by their dotted names; every combination of them is a setting.
        compare_with: The setting that the others are compared with; the first if left out.
        config: The transfer's config: the name of a shipped one, or a file.
        common: What all settings override.
        batch_size: Jobs of a trainer.

    Raises:
        ValueError: If there is no setting or no job, or a name is missing or given twice.
    """

    jobs: ToyJobs | list[FileJob]
    settings: dict[str, Overrides] = field(default_factory=dict)
    grid: dict[str, list[Any]] = field(default_factory=dict)
    compare_with: str | None = None
    config: str = "wan_tiny.yaml"
    common: Overrides = field(default_factory=dict)
    batch_size: int = 16

    def __post_init__(self) -> None:
        """Check what needs no file to be checked."""
        combined = _combinations(self.grid)
        if set(self.settings) & set(combined):
            raise UserError(f"two settings are called {', '.join(set(self.settings) & set(combined))}; rename one")
        self.all_settings = {**self.settings, **combined}
        if not self.all_settings:
            raise UserError("the experiment has no settings; give settings or a grid")
        if (self.jobs.num_jobs if isinstance(self.jobs, ToyJobs) else len(self.jobs)) < 1:
            raise UserError("the experiment has no jobs; give clips with prompts, or a number of toy jobs")
        if self.batch_size < 1:
            raise UserError(f"batch_size is {self.batch_size}; use at least 1")
        self.reference = self.compare_with or next(iter(self.all_settings))
        if self.reference not in self.all_settings:
            raise UserError(f"compare_with is {self.reference!r}; use one of {', '.join(self.all_settings)}")


def _combinations(grid: Mapping[str, Sequence[Any]]) -> dict[str, Overrides]:
    """Return every combination of some settings' values.

    >>> _combinations({"data.motion.window": [5, None]})
    {'window 5': {'data.motion.window': 5}, 'window null': {'data.motion.window': None}}
    """
    found = {}
    for values in itertools.product(*grid.values()) if grid else ():
        chosen = dict(zip(grid, values, strict=True))
        name = ", ".join(f"{key.rsplit('.', 1)[-1]} {json.dumps(value)}" for key, value in chosen.items())
        found[name] = chosen
    return found


def backbone_of(overrides: Overrides) -> str:
    """Return what settings have in common that can run on a backbone that is in memory."""
    backbone = {
        name: value for name, value in overrides.items() if name == "model" or name.startswith("model.backbone")
    }
    return json.dumps(backbone, sort_keys=True, default=str)


def read_experiment(path: Path) -> Experiment:
    """Return the experiment of a YAML file.

    Raises:
        ValueError: If it is none.
    """
    if not path.is_file():
        raise UserError(f"experiment {path} is no file; check the path")
    try:
        content = yaml.safe_load(read_text(path))
    except yaml.YAMLError as error:
        raise UserError(f"experiment {path} cannot be read ({error}); give a YAML file") from error
    if not isinstance(content, dict):
        raise UserError(f"experiment {path} is no mapping; it needs jobs, and settings or a grid")
    overrides: dict[str, Any] = {name: content.pop(name, None) or {} for name in ("settings", "grid", "common")}
    for name, value in overrides.items():
        inner = list(value.values()) if isinstance(value, dict) and name != "common" else []
        if not isinstance(value, dict) or not all(isinstance(one, list if name == "grid" else dict) for one in inner):
            raise UserError(f"{name} of experiment {path} is {value}; see configs/experiment for how it is written")
    for name in (*overrides["settings"], *overrides["grid"]):
        if not isinstance(name, str):
            raise UserError(f"a setting of experiment {path} is called {name!r}, which is no text; put it in quotes")
    for changed in (overrides["common"], overrides["grid"], *overrides["settings"].values()):
        if {"data.clips", "data.prompts", "data.seed"} & set(changed):
            raise UserError(f"experiment {path} overrides clips, prompts or seed, which are its jobs'; put them there")
    parser = ArgumentParser(exit_on_error=False)  # which would make objects of the class paths in overrides
    parser.add_class_arguments(Experiment, skip=set(overrides))
    given = parser.instantiate_classes(parser.parse_object(content))
    return Experiment(**given.as_dict(), **overrides)


def config_of(experiment: Experiment, path: Path) -> Path:
    """Return the config's file: a shipped one by its name, else relative to the experiment's file.

    Raises:
        ValueError: If there is none.
    """
    for found in (CONFIGS / experiment.config, path.parent / experiment.config):
        if found.is_file():
            return found
    shipped = ", ".join(sorted(file.name for file in CONFIGS.glob("*.yaml")))
    raise UserError(f"config {experiment.config} is no file; give a path, or a shipped one: {shipped}")


@dataclass(frozen=True)
class SweepJob:
    """A job of a sweep.

    Attributes:
        clip: Its video file.
        prompt: What the video is to show.
        toy: What is true of it, if it is a toy job.
    """

    clip: Path
    prompt: str
    toy: ToyJob | None = None

    @property
    def content(self) -> str:
        """SHA-256 of its clip; of a toy clip its frames, which another version of an encoder writes otherwise."""
        if self.toy is None:
            content: str = content_hash(self.clip)
            return content
        return sha256(self.toy.clip.frames.numpy().tobytes()).hexdigest()


def make_jobs(experiment: Experiment, path: Path, folder: Path) -> list[SweepJob]:
    """Return the jobs of an experiment; toy clips are written to a folder."""
    if not isinstance(experiment.jobs, ToyJobs):
        return [SweepJob(path_in_table(str(job.clip), path.parent), job.prompt) for job in experiment.jobs]
    wanted, jobs = experiment.jobs, []
    for number, job in enumerate(
        toy_jobs(wanted.num_jobs, wanted.split, wanted.num_objects, wanted.camera, wanted.paths)
    ):
        file = folder / f"{number:03d}.mp4"
        if not file.exists():
            write_video(file, job.clip.frames, FPS)
        jobs.append(SweepJob(file, job.prompt, job))
    return jobs
