"""Job lists: which clips are to move which prompts, from a table or from tar files of clips."""

import argparse
import csv
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, Unpack

import yaml
from jsonargparse import ArgumentParser

from fastvmt_pl.commands.options import as_words, one_line, read_config, slug, words
from fastvmt_pl.commands.transfer_options import TransferOptions, config_of, settings_of
from fastvmt_pl.datamodules import read_videos
from fastvmt_pl.errors import UserError
from fastvmt_pl.files import written_whole
from fastvmt_pl.identity import Settings, identity_of_overridden

Kind = TypeVar("Kind")
OWN = ("name", "clip", "prompt", "prompts", "seed")
"""Columns that are not settings."""
PERSONAL = ("name", "prompt", "seed")
"""What a job shares with no other."""
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
    """

    name: str
    clip: Path
    prompt: str
    seed: int = 0
    options: TransferOptions = field(default_factory=TransferOptions)
    settings: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def identity(self) -> Settings:
        """What changes its result: name, prompt, seed, the clip's content, and the settings that it comes to.

        Raises:
            ValueError: If a setting or the config cannot be read.
        """
        return self.identify({"job": self._as_read_again()})

    @cached_property
    def group(self) -> str:
        """A hash of what jobs that run side by side have in common: all but name, prompt, seed, and where they run."""
        same = {name: value for name, value in self.identity.items() if name not in PERSONAL}
        return hashlib.sha256(json.dumps([same, str(self.clip)], sort_keys=True).encode()).hexdigest()

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
        options: Any = dict(job["options"])
        if "config" in job and job["config"] == hashlib.sha256(config_of(self.options).read_bytes()).hexdigest():
            options["config"] = config_of(self.options)
        if "config" in options:
            options["config"] = Path(options["config"])
        config = read_config(config_of(options))
        data = {name: value for name, value in (config.get("data") or {}).items() if name not in ("prompts", "seed")}
        config["data"] = {**data, "clips": [job["clip"]]}
        settings = identity_of_overridden(config, settings_of(options) | job["settings"])
        return {**settings, **{name: job[name] for name in PERSONAL}}


def stamp_of(clip: Path) -> str:
    """Return what changes when a clip does."""
    try:
        found = clip.stat()
    except OSError:
        return "missing"
    return f"{found.st_size} {found.st_mtime_ns}"


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
        ValueError: If the list as a whole cannot be read, or is empty.
    """
    jobs, refused = dict[str, Job](), list[Refusal]()
    for where, row in _rows(path, clips, refused):
        try:
            found = _jobs_of_row(row, path.parent, options)
            for job in found:
                if job.name in jobs:
                    raise UserError(f"another job is called {job.name!r} too; give one of them a name, or a seed")
        except (ValueError, OSError, argparse.ArgumentError) as error:
            called = f" ({row['name']})" if isinstance(row, dict) and row.get("name") else ""
            refused.append(Refusal(f"{where}{called}", one_line(str(error))))
            continue
        jobs |= {job.name: job for job in found}
    if not jobs and not refused:
        raise UserError(f"job list {path} is empty; give a row a job, with clip and prompt")
    return list(jobs.values()), refused


def _rows(path: Path, clips: Path, refused: list[Refusal]) -> Iterator[tuple[str, Any]]:
    """Yield where each row of a list stands, and what it holds."""
    if not path.is_file():
        raise UserError(f"job list {path} is no file; check the path")
    readers: dict[str, Callable[[Path], Iterator[Any]]] = {
        ".csv": _csv,
        ".jsonl": _jsonl,
        ".yaml": _yaml,
        ".yml": _yaml,
    }
    if path.suffix == ".tar":
        yield from _tar(path, clips, refused)
    elif path.suffix in readers:
        try:
            for number, row in enumerate(readers[path.suffix](path), 1):
                yield f"row {number} of {path.name}", row
        except (OSError, UnicodeDecodeError, csv.Error, yaml.YAMLError) as error:
            raise UserError(f"job list {path} cannot be read ({error})") from error
    else:
        raise UserError(f"job list {path} has the ending {path.suffix!r}; use .csv, .jsonl, .yaml or .tar")


def _csv(path: Path) -> Iterator[Any]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        for row in csv.DictReader(file, restkey="more cells than columns"):
            yield {name: cell for name, cell in row.items() if cell not in ("", None)}


def _jsonl(path: Path) -> Iterator[Any]:
    for line in path.read_text(encoding="utf-8-sig").splitlines():
        if line.strip():
            try:
                yield json.loads(line)
            except json.JSONDecodeError as error:
                yield error


def _yaml(path: Path) -> Iterator[Any]:
    rows = yaml.safe_load(path.read_text(encoding="utf-8")) or []
    if not isinstance(rows, list):
        raise UserError(f"job list {path} is no list; begin each job with '- clip: ...'")
    yield from rows


def _tar(path: Path, clips: Path, refused: list[Refusal]) -> Iterator[tuple[str, Any]]:
    for where, video, caption in read_videos([path], lambda problem: refused.append(Refusal(path.name, problem))):
        key = where.rsplit(", sample ", 1)[-1]
        name = f"{words(path.stem, key)}-{hashlib.sha256(key.encode()).hexdigest()[:8]}"  # a slug is not all of a key
        clip = (clips / f"{name}.mp4").resolve()
        if not clip.exists() or clip.read_bytes() != video:
            with written_whole(clip) as temporary:
                temporary.write_bytes(video)
        yield where, {"name": name, "clip": str(clip), "prompt": caption}


def _jobs_of_row(row: Any, folder: Path, options: TransferOptions) -> list[Job]:
    """Return the job, or the jobs, of a row; its clip's path is relative to the list's folder."""
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
    names = [_own(row, "name", str)] if "name" in row else [slug(Path(clip).stem, x, str(seed)) for x in prompts]
    if len(names) < len(prompts):
        names = [f"{names[0]}-{number}" for number in range(len(prompts))]
    for name in names:
        if Path(name).name != name or name.startswith(".") or len(name.encode()) > 200:
            raise UserError(f"name is {name[:60]!r}; use one that a folder can have, of at most 200 bytes")
    place = (folder / clip).resolve()
    jobs = [Job(name, place, prompt, seed, merged, settings) for name, prompt in zip(names, prompts, strict=True)]
    _ = jobs[0].identity  # refuses settings that cannot be read
    return jobs


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
    settings = {name: value for name, value in row.items() if "." in name}
    taken = [name for name in ("data.clips", "data.prompts", "data.seed") if name in settings]
    if taken:
        raise UserError(f"{', '.join(taken)} cannot be set in a job list; use the columns clip, prompt and seed")
    options = {name.replace("-", "_"): value for name, value in row.items() if "." not in name}
    known = [name for name in TransferOptions.__annotations__ if name != "device"]
    unknown = [name for name in options if name not in known]
    if unknown:
        raise UserError(f"there is no setting {unknown[0]!r}; use {', '.join((*OWN, *known))}, or dotted names")
    parser = ArgumentParser(exit_on_error=False)
    parser.add_function_arguments(_take_options, as_group=False)
    own: Any = parser.parse_args(as_words(options)).as_dict()
    return own, settings


def _take_options(**options: Unpack[TransferOptions]) -> None:
    """Stand for the options, whose types and texts the parser reads off here."""
