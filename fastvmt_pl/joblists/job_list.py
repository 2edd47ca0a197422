"""Job lists: which clips are to move which prompts, from a table or from tar files of clips."""

import argparse
import hashlib
import json
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any, TypeVar, Unpack

import yaml
from jsonargparse import ArgumentParser

from fastvmt_pl.clips import ClipError, find_pictures
from fastvmt_pl.datamodules import check_interval
from fastvmt_pl.errors import UserError, one_line
from fastvmt_pl.files.names import slug
from fastvmt_pl.files.tables import path_in_table
from fastvmt_pl.joblists.job_rows import OWN, check_names, rows_of_list
from fastvmt_pl.runs.identity import Settings, identity_of_overridden
from fastvmt_pl.runs.old_spellings import TRANSFER, new_names
from fastvmt_pl.runs.settings import read_config
from fastvmt_pl.runs.transfer_options import TransferOptions, config_of, settings_of

Kind = TypeVar("Kind")
PERSONAL = ("name", "prompt", "seed")
"""What a job shares with no other."""
BACKBONE = ("model", "dtype", "loras", "config")
"""Options that change the backbone."""
BATCH_SIZE = 4
"""The most prompts of a clip that run side by side, unless told otherwise."""


@dataclass(frozen=True)
class Job:
    """A transfer of a list.

    Attributes:
        name: Name of its folder.
        clip: Its clip.
        prompt: What the video is to show.
        seed: Seed of its noise.
        options: How to transfer: those of the command, overridden by its own.
        settings: What else it overrides of the config, by dotted names.
        config: Hash of the settings in the config that they override.
    """

    name: str
    clip: Path
    prompt: str
    seed: int = 0
    options: TransferOptions = field(default_factory=TransferOptions)
    settings: dict[str, Any] = field(default_factory=dict)
    config: str = ""

    @cached_property
    def shared(self) -> str:
        """What jobs that can run side by side have in common, but for their clip and where they run."""
        options = {name: value for name, value in self.options.items() if name not in ("device", "config")}
        return json.dumps([options, self.settings, self.config], sort_keys=True, default=str)

    @property
    def group(self) -> str:
        """What jobs that can run side by side have in common: all but name, prompt, seed, and where they run."""
        return f"{self.clip}\n{self.shared}"

    @cached_property
    def kind(self) -> str:
        """What jobs have in common whose settings are good or bad together, whatever their clips."""
        free = ("device", "config", "start", "end", "negative_prompt")
        options = {name: value for name, value in self.options.items() if name not in free}
        return json.dumps([options, self.settings, self.config], sort_keys=True, default=str)

    @cached_property
    def backbone(self) -> str:
        """What jobs have in common that can run on a backbone that is in memory."""
        options = {name: value for name, value in self.options.items() if name in BACKBONE}
        settings = {name: value for name, value in self.settings.items() if name.startswith("model.backbone")}
        return json.dumps([options, settings, self.config], sort_keys=True, default=str)

    def described(self) -> str:
        """Return the job as YAML."""
        described: str = yaml.safe_dump(self._as_read_again(), allow_unicode=True)
        return described

    def _as_read_again(self) -> dict[str, Any]:
        options = {name: value for name, value in self.options.items() if name != "device" and value is not None}
        own = {"name": self.name, "prompt": self.prompt, "seed": self.seed, "clip": str(self.clip)}
        read: dict[str, Any] = json.loads(
            json.dumps({**own, "options": options, "settings": self.settings}, default=str)
        )
        return read

    def identify(self, files: dict[str, Any]) -> Settings:
        """Return what changes the result of a job that :meth:`described` describes.

        An older version names not the config but its hash, which is compared with that of this job's.
        """
        job = files["job"]
        options = new_names(job["options"], TRANSFER, warn=False)
        if "config" in job and job["config"] == hashlib.sha256(config_of(self.options).read_bytes()).hexdigest():
            options["config"] = str(config_of(self.options))
        shared = _shared_identity(json.dumps([options, job["settings"]], sort_keys=True), job["clip"])
        return {**shared, **{name: job[name] for name in PERSONAL}}


@lru_cache(maxsize=1000)
def _shared_identity(described: str, clip: str) -> Settings:
    """Return what changes the results of all jobs of a clip with the same options and settings."""
    options, settings = json.loads(described)
    if "config" in options:
        options["config"] = Path(options["config"])
    config = read_config(config_of(options))
    data = {name: value for name, value in (config.get("data") or {}).items() if name not in ("prompts", "seed")}
    config["data"] = {**data, "clips": [clip]}
    return identity_of_overridden(config, settings_of(options) | settings)


def stamp_of(clip: Path) -> str:
    """Return what changes when a clip does."""
    try:
        found = [path.stat() for path in (find_pictures(clip) if clip.is_dir() else [clip])]
    except (OSError, ClipError):
        return "missing"
    return " ".join(f"{each.st_size} {each.st_mtime_ns}" for each in found)


@dataclass(frozen=True)
class Refusal:
    """A job that cannot run.

    Attributes:
        name: Its name, or where it stands in its list with it.
        reason: Why, and what to change.
    """

    name: str
    reason: str


def read_jobs(path: Path, options: TransferOptions, clips: Path) -> tuple[list[Job], list[Refusal]]:
    """Return the jobs of a list, and its entries that are none.

    Args:
        path: CSV with a header, JSONL, a YAML list, or a tar file of clips (``NAME.mp4``) and prompts (``NAME.txt``).
        options: How to transfer, where an entry does not say otherwise.
        clips: Folder that the clips of a tar file are unpacked to.

    Raises:
        UserError: If the list as a whole cannot be read, or is empty.
    """
    _shared_identity.cache_clear()  # files may have changed since the last list was read
    jobs, refused, configs = dict[str, Job](), list[Refusal](), dict[tuple[Any, Any], str]()
    for where, row in rows_of_list(path, clips, lambda problem: refused.append(Refusal(path.name, problem))):
        try:
            found = _jobs_of_row(row, path.parent, options, configs)
            for job in found:
                if job.name in jobs:
                    raise UserError(f"another job is called {job.name!r} too; give one of them a name, or a seed")
        except (UserError, OSError, argparse.ArgumentError) as error:
            called = f" ({row['name']})" if isinstance(row, dict) and row.get("name") else ""
            refused.append(Refusal(f"{where}{called}", one_line(str(error))))
            continue
        jobs |= {job.name: job for job in found}
    if not jobs and not refused:
        raise UserError(f"job list {path} is empty; give a row a job, with clip and prompt")
    return list(jobs.values()), refused


def _jobs_of_row(row: Any, folder: Path, options: TransferOptions, configs: dict[tuple[Any, Any], str]) -> list[Job]:
    """Return the job, or the jobs, of a row.

    Args:
        row: The row, or what is wrong with it.
        folder: The list's folder, where relative paths of clips start.
        options: How to transfer, where the row does not say otherwise.
        configs: Hashes of the configs that earlier rows named, by their options config and model.
    """
    if isinstance(row, UserError):
        raise row
    if not isinstance(row, dict) or not all(isinstance(name, str) for name in row):
        raise UserError(f"{row!r} is no job; give clip and prompt")
    clip = _own(row, "clip", str)
    prompts = _own(row, "prompts", list) if "prompts" in row else [_own(row, "prompt", str)]
    seed = _own(row, "seed", int) if "seed" in row else 0
    if not prompts or not all(isinstance(prompt, str) and prompt.strip() for prompt in prompts):
        raise UserError("a prompt is empty or no text; say what the video is to show")
    if seed < 0:
        raise UserError(f"seed is {seed}; use 0 or more")
    own, settings = _settings({name: value for name, value in row.items() if name not in OWN})
    merged: TransferOptions = {**options, **own}
    check_interval(merged.get("start") or 0.0, merged.get("end"))
    key = merged.get("config"), merged.get("model")
    if key not in configs:
        configs[key] = _config_hash(merged)
    names = [_own(row, "name", str)] if "name" in row else [slug(Path(clip).stem, x, str(seed)) for x in prompts]
    if len(names) < len(prompts):
        names = [f"{names[0]}-{number}" for number in range(len(prompts))]
    for name in names:
        if Path(name).name != name or name.startswith(".") or len(name.encode()) > 200:
            raise UserError(f"name is {name[:60]!r}; use one that a folder can have, of at most 200 bytes")
    place, config = path_in_table(clip, folder).resolve(), configs[key]
    pairs = zip(names, prompts, strict=True)
    return [Job(name, place, prompt, seed, merged, settings, config) for name, prompt in pairs]


def _config_hash(options: TransferOptions) -> str:
    config = config_of(options)
    if not config.is_file():
        raise UserError(f"config {config} is no file; check the path")
    return hashlib.sha256(json.dumps(read_config(config), sort_keys=True, default=str).encode()).hexdigest()


def _own(row: dict[str, Any], name: str, kind: type[Kind]) -> Kind:
    """Return a cell of a row, read as what it has to be."""
    value = row.get(name)
    if kind is int and isinstance(value, str) and value.strip().lstrip("-").isdecimal():
        value = int(value)
    if not isinstance(value, kind) or isinstance(value, bool) or value == "":
        raise UserError(f"{name} is {value!r}; give {'a list of texts' if kind is list else f'a {kind.__name__}'}")
    return value


def _settings(row: dict[str, Any]) -> tuple[TransferOptions, dict[str, Any]]:
    """Return what a row sets of the command's options, and of the config by dotted names."""
    row = new_names(row, TRANSFER)
    check_names(list(row))
    own: Any = {}
    for name, value in row.items():
        own |= _read_option(json.dumps({name: value}, default=str)) if "." not in name else {}
    return own, {name: value for name, value in row.items() if "." in name}


@lru_cache(maxsize=4096)
def _read_option(described: str) -> dict[str, Any]:
    """Return an option, from its name and value as JSON; rows of a list share most of theirs."""
    read: dict[str, Any] = _parser().parse_object(json.loads(described)).as_dict()
    return read


@cache
def _parser() -> ArgumentParser:
    parser = ArgumentParser(exit_on_error=False)
    parser.add_function_arguments(_take_options, as_group=False)
    return parser


def _take_options(**options: Unpack[TransferOptions]) -> None:
    """Stand for the options, whose types and texts the parser reads off here."""
