"""Read job lists from tables and from tar files of clips."""

import argparse
import json
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from fastvmt_pl.datamodules import check_interval
from fastvmt_pl.errors import UserError, one_line
from fastvmt_pl.files.names import slug
from fastvmt_pl.files.tables import path_in_table
from fastvmt_pl.joblists.job import Job, Outcome, config_hash, forget_files
from fastvmt_pl.joblists.job_rows import OWN, check_names, rows_of_list
from fastvmt_pl.runs.transfer_options import TransferOptions, checked_options

Kind = TypeVar("Kind")
CELLS = {str: "a text", int: "a whole number", list: "a list of texts"}


def read_jobs(path: Path, options: TransferOptions, clips: Path) -> tuple[list[Job], list[Outcome]]:
    """Return the jobs of a list, and an outcome for each entry that is invalid.

    Args:
        path: CSV with a header, JSONL, a YAML list, or a tar file of clips (``NAME.mp4``) and prompts (``NAME.txt``).
        options: Options of the transfers, which an entry may override.
        clips: Folder that the clips of a tar file are unpacked to.

    Raises:
        UserError: If the list as a whole cannot be read, or is empty.
    """
    forget_files()
    jobs, refused, configs = dict[str, Job](), list[Outcome](), dict[tuple[Any, Any], str]()
    for where, row in rows_of_list(path, clips, lambda problem: refused.append(Outcome(path.name, "refused", problem))):
        try:
            found = _jobs_of_row(row, path.parent, options, configs)
            for job in found:
                if job.name in jobs:
                    raise UserError(f"another job is also named {job.name!r}; give one of them a name or a seed")
        except (UserError, OSError, argparse.ArgumentError) as error:
            called = f" ({row['name']})" if isinstance(row, dict) and row.get("name") else ""
            refused.append(Outcome(f"{where}{called}", "refused", one_line(str(error))))
            continue
        jobs |= {job.name: job for job in found}
    if not jobs and not refused:
        raise UserError(f"job list {path} is empty; give one row per job, with clip and prompt")
    return list(jobs.values()), refused


def _jobs_of_row(row: Any, folder: Path, options: TransferOptions, configs: dict[tuple[Any, Any], str]) -> list[Job]:
    """Return the jobs of a row.

    Args:
        row: The row, or the error of reading it.
        folder: The list's folder, which relative paths start at.
        options: Options of the transfers, which the row may override.
        configs: Hashes of the configs of earlier rows, by their options config and model.
    """
    if isinstance(row, UserError):
        raise row
    if not isinstance(row, dict) or not all(isinstance(name, str) for name in row):
        raise UserError(f"{row!r} is not a job; give clip and prompt")
    clip = _own(row, "clip", str)
    prompts = _own(row, "prompts", list) if "prompts" in row else [_own(row, "prompt", str)]
    seed = _own(row, "seed", int) if "seed" in row else 0
    if not prompts or not all(isinstance(prompt, str) and prompt.strip() for prompt in prompts):
        raise UserError(f"prompts are {prompts!r}; give texts that are not empty")
    if seed < 0:
        raise UserError(f"seed is {seed}; use 0 or more")
    own, settings = _settings({name: value for name, value in row.items() if name not in OWN})
    merged: TransferOptions = {**options, **own}
    image = merged.pop("image", None)
    if image is not None:
        image = path_in_table(str(image), folder if "image" in own else Path()).resolve()
    if (region := own.get("region")) is not None and (path := path_in_table(region, folder)).exists():
        merged["region"] = str(path.resolve())
    check_interval(merged.get("start") or 0.0, merged.get("end"))
    key = merged.get("config"), merged.get("model")
    if key not in configs:
        configs[key] = config_hash(merged)
    names = [_own(row, "name", str)] if "name" in row else [slug(Path(clip).stem, x, str(seed)) for x in prompts]
    if len(names) < len(prompts):
        names = [f"{names[0]}-{number}" for number in range(len(prompts))]
    for name in names:
        if Path(name).name != name or name.startswith(".") or len(name.encode()) > 200:
            raise UserError(f"name is {name[:60]!r}; use a valid folder name of at most 200 bytes")
    place, config = path_in_table(clip, folder).resolve(), configs[key]
    pairs = zip(names, prompts, strict=True)
    return [Job(name, place, prompt, seed, merged, settings, config, image) for name, prompt in pairs]


def _own(row: dict[str, Any], name: str, kind: type[Kind]) -> Kind:
    """Return a cell of a row as the required type."""
    value = row.get(name)
    if value is None or value == "":
        raise UserError(f"there is no {name}; each job needs clip and prompt")
    if kind is int and isinstance(value, str) and value.strip().lstrip("-").isdecimal():
        value = int(value)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise UserError(f"{name} is {value!r}; give {CELLS[kind]}")
    return value


def _settings(row: dict[str, Any]) -> tuple[TransferOptions, dict[str, Any]]:
    """Return the command's options that a row sets, and the settings that it sets by dotted names."""
    check_names(list(row))
    own: Any = {}
    for name, value in row.items():
        if "." not in name:
            own |= _read_option(json.dumps({name: value}, default=str))
    return own, {name: value for name, value in row.items() if "." in name}


@lru_cache(maxsize=4096)
def _read_option(described: str) -> TransferOptions:
    """Return an option, given its name and value as JSON. Cached because rows share most of their options."""
    return checked_options(json.loads(described))
