"""What an experiment is: settings to compare, and jobs to compare them on."""

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser

from fastvmt_pl.errors import UserError
from fastvmt_pl.files.tables import path_in_table, read_text
from fastvmt_pl.runs.options import CONFIGS
from fastvmt_pl.toy import toy_world
from fastvmt_pl.toy.toy_jobs import MOVING, Split

Overrides = dict[str, Any]


@dataclass
class ClipWithPrompt:
    """A clip of the user's and what the video is to show.

    Args:
        clip: Video file, or folder of numbered pictures; a relative path starts at the experiment's file, and ``~`` is
            the home folder.
        prompt: What the video is to show.
        image: Picture file that the video begins with; relative paths as for the clip.
    """

    clip: Path
    prompt: str
    image: Path | None = None


@dataclass
class ToyClips:
    """Clips and prompts of the toy world, whose true paths are known; see :func:`~fastvmt_pl.toy.toy_jobs.toy_jobs`.

    Args:
        num_jobs: How many.
        split: Jobs for choosing settings, or those that nothing was chosen on.
        num_objects: Objects a clip.
        camera: Whether the camera moves.
        paths: Kinds of path.
        images: Whether videos begin with an image, which shows the object where the clip's object starts.
        elsewhere: Whether the image's object is elsewhere than the clip's and of another size; jobs then have a place.
        region: The object of the clip, from 0, whose masks are the jobs' region.
    """

    num_jobs: int = 32
    split: Split = "tuning"
    num_objects: int = 1
    camera: bool = False
    paths: Sequence[toy_world.Path] = MOVING
    images: bool = False
    elsewhere: bool = False
    region: int | None = None


@dataclass
class Experiment:
    """Settings to compare on the same jobs.

    Args:
        jobs: Clips and prompts, or how many of the toy world's; number n has the seed n.
        settings: What each setting overrides of the config, by dotted names, under a name of its own.
        grid: Values of settings by their dotted names; every combination of them is a setting.
        compare_with: The setting that the others are compared with; default: the first.
        config: The transfer's config: the name of a shipped one, or a file.
        common: What all settings override.
        batch_size: The most jobs that run side by side.

    Raises:
        ValueError: If there is no setting or no job, or a name is missing or given twice.
    """

    jobs: ToyClips | list[ClipWithPrompt]
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
        if (self.jobs.num_jobs if isinstance(self.jobs, ToyClips) else len(self.jobs)) < 1:
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


def read_experiment(path: Path) -> Experiment:
    """Return the experiment of a YAML file, with the paths of its config and its clips.

    Raises:
        UserError: If it is none, or has no such config.
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
        if {"data.clips", "data.prompts", "data.images", "data.seed"} & set(changed):
            raise UserError(
                f"experiment {path} overrides what is its jobs' (clips, prompts, images, seed); put it there"
            )
    parser = ArgumentParser(exit_on_error=False)  # which would make objects of the class paths in overrides
    parser.add_class_arguments(Experiment, skip=set(overrides))
    given = parser.instantiate_classes(parser.parse_object(content))
    given.config = str(_find_config(given.config, path.parent))
    for one in [] if isinstance(given.jobs, ToyClips) else given.jobs:
        one.clip = path_in_table(str(one.clip), path.parent)
        one.image = None if one.image is None else path_in_table(str(one.image), path.parent)
    return Experiment(**given.as_dict(), **overrides)


def _find_config(name: str, folder: Path) -> Path:
    """Return the config's file: a shipped one by its name, else relative to a folder."""
    for found in (CONFIGS / name, folder / name):
        if found.is_file():
            return found
    shipped = ", ".join(sorted(file.name for file in CONFIGS.glob("*.yaml")))
    raise UserError(f"config {name} is no file; give a path, or a shipped one: {shipped}")
