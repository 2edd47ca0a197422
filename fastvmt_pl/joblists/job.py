"""A job of a list, the jobs that it can run with, and its outcome."""

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import yaml

from fastvmt_pl.clips import ClipError, find_pictures
from fastvmt_pl.errors import UserError
from fastvmt_pl.runs.identity import Settings, content_of, identity_of_overridden
from fastvmt_pl.runs.old_spellings import TRANSFER, new_names
from fastvmt_pl.runs.settings import read_config
from fastvmt_pl.runs.transfer_options import TransferOptions, config_of, settings_of

PERSONAL = ("name", "prompt", "seed")
"""Fields that differ between the jobs of a batch."""
BACKBONE = ("model", "dtype", "quantization", "loras", "config")
"""Options that change the backbone."""
PLACE = ("device", "config")
"""Options that do not change a job's result: where it runs, and the file that its settings come from."""


@dataclass(frozen=True)
class Job:
    """A transfer of a list.

    Attributes:
        name: Name of its folder.
        clip: Its clip.
        prompt: Description of the video.
        seed: Seed of its noise.
        options: Options of the command, overridden by its own.
        settings: Other settings of the config that it overrides, by dotted names.
        config: Hash of the config's own settings; see :func:`config_hash`.
        image: First frame of the video.
    """

    name: str
    clip: Path
    prompt: str
    seed: int = 0
    options: TransferOptions = field(default_factory=TransferOptions)
    settings: dict[str, Any] = field(default_factory=dict)
    config: str = ""
    image: Path | None = None

    @property
    def files(self) -> tuple[Path, ...]:
        """Its clip, and its image if it has one."""
        return (self.clip,) if self.image is None else (self.clip, self.image)

    @cached_property
    def shared(self) -> str:
        """Key of the jobs that can run side by side: all settings except :data:`PLACE`."""
        return self._without(*PLACE)

    @property
    def group(self) -> str:
        """Key of the jobs of one clip that can run side by side."""
        return f"{self.clip}\n{self.shared}"

    @cached_property
    def kind(self) -> str:
        """Key of the jobs whose settings are either all valid or all invalid, whatever their clips."""
        return self._without(*PLACE, "start", "end", "negative_prompt")

    @cached_property
    def backbone(self) -> str:
        """Key of the jobs that can run on the same backbone in memory."""
        options = {name: value for name, value in self.options.items() if name in BACKBONE}
        settings = {
            name: x for name, x in self.settings.items() if name == "model" or name.startswith("model.backbone")
        }
        return self._described(options, settings)

    def _without(self, *names: str) -> str:
        return self._described({name: x for name, x in self.options.items() if name not in names}, self.settings)

    def _described(self, options: dict[str, Any], settings: dict[str, Any]) -> str:
        described = [options, settings, self.config, *([] if self.image is None else ["with an image"])]
        return json.dumps(described, sort_keys=True, default=str)

    def described(self) -> str:
        """Return the job as YAML."""
        options = {name: value for name, value in self.options.items() if name != "device" and value is not None}
        own = {"name": self.name, "prompt": self.prompt, "seed": self.seed, "clip": str(self.clip)}
        own |= {} if self.image is None else {"image": str(self.image)}
        plain = json.loads(json.dumps({**own, "options": options, "settings": self.settings}, default=str))
        described: str = yaml.safe_dump(plain, allow_unicode=True)
        return described

    def identify(self, files: dict[str, Any]) -> Settings:
        """Return the settings that change the result of a job, from its description by :meth:`described`.

        Older versions described the config by the hash of its file, which is compared with that of this job's.
        """
        job = files["job"]
        options = new_names(job["options"], TRANSFER, warn=False)
        if "config" in job and job["config"] == hashlib.sha256(config_of(self.options).read_bytes()).hexdigest():
            options["config"] = str(config_of(self.options))
        shared = _shared_identity(json.dumps([options, job["settings"]], sort_keys=True), job["clip"])
        image = {"image": content_of(job["image"])} if "image" in job else {}
        return {**shared, **{name: job[name] for name in PERSONAL}, **image}


@dataclass(frozen=True)
class Outcome:
    """The outcome of a job of a list.

    Attributes:
        name: Its name, or its place in the list.
        status: Finished, failed, refused because it cannot run, or not finished yet.
        detail: Why it failed or was refused, or what was changed.
        video: Its video.
    """

    name: str
    status: Literal["done", "failed", "refused", "open"]
    detail: str = ""
    video: str = ""


@lru_cache(maxsize=1000)
def _shared_identity(described: str, clip: str) -> Settings:
    """Return the settings that change the results of all jobs with the same clip, options and settings."""
    options, settings = json.loads(described)
    if "config" in options:
        options["config"] = Path(options["config"])
    config = read_config(config_of(options))
    data = {name: value for name, value in (config.get("data") or {}).items() if name not in ("prompts", "seed")}
    config["data"] = {**data, "clips": [clip]}
    return identity_of_overridden(config, settings_of(options) | settings)


def forget_files() -> None:
    """Forget the configs, clips and models read by :meth:`Job.identify`, since they may have changed."""
    _shared_identity.cache_clear()


def config_hash(options: TransferOptions) -> str:
    """Return the hash of the config's settings, which does not depend on how the file is written.

    Raises:
        UserError: If the config does not exist.
    """
    config = config_of(options)
    if not config.is_file():
        raise UserError(f"config {config} is not a file; check the path")
    return hashlib.sha256(json.dumps(read_config(config), sort_keys=True, default=str).encode()).hexdigest()


def stamp_of(clip: Path) -> str:
    """Return a text that changes when a clip's files do."""
    try:
        found = [path.stat() for path in (find_pictures(clip) if clip.is_dir() else [clip])]
    except (OSError, ClipError):
        return "missing"
    return " ".join(f"{each.st_size} {each.st_mtime_ns}" for each in found)
