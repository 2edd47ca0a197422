"""Claim a run folder: make it, or see that it is the same run's, and keep other processes out."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch.utilities import rank_zero_only

from fastvmt_pl.errors import UserError
from fastvmt_pl.files.atomic import PREFIX, remove_unfinished, write_text
from fastvmt_pl.files.locks import LOCK, locked
from fastvmt_pl.runs.identity import Settings, differences, flat, of_earlier_version

Identify = Callable[[dict[str, Any]], Settings]
"""Returns what changes a run's result, given the contents of its YAML files by their names without the ending."""
IDENTITY = "identity.json"
"""File of a run folder that holds what changes its result, by dotted names."""


@contextmanager
def claimed_folder(folder: Path, identify: Identify = flat, **settings: str) -> Iterator[None]:
    """Make a run folder with its settings, or see that it is this very run's, and keep other processes out meanwhile.

    Of several processes of one trainer, the first locks.

    Args:
        folder: The run folder.
        identify: Returns what changes the run's result, given the contents of the files.
        settings: Contents of YAML files by their names without the ending; the first is the one that has to be there.

    Raises:
        InUseError: If another process is using the folder.
        ValueError: If it holds something else, saying which settings differ.
    """
    run = _Run(folder, identify, settings)
    run.refuse_others()
    first = getattr(rank_zero_only, "rank", 0) == 0
    with locked(folder) if first else nullcontext():
        if first:
            remove_unfinished(folder)
        run.settle()
        yield


def other_settings(folder: Path, identify: Identify = flat, **settings: str) -> list[str]:
    """Return which settings of a run folder differ; see :func:`claimed_folder`. A new folder differs in none.

    Raises:
        ValueError: If the folder's own settings cannot be read.
    """
    return _Run(folder, identify, settings).differences()


class _Run:
    """A run folder that is to be made, or that a run goes on in."""

    def __init__(self, folder: Path, identify: Identify, settings: dict[str, str]) -> None:
        self.folder, self.identify, self.settings = folder, identify, settings
        now = identify({name: yaml.safe_load(content) for name, content in settings.items()})
        self.identity: Settings = json.loads(json.dumps(now))  # as it is read again

    def differences(self) -> list[str]:
        """Return which settings in the folder differ, each with both values."""
        try:
            there = json.loads((self.folder / IDENTITY).read_text(encoding="utf-8"))
        except (OSError, ValueError):  # of an older version, or not written yet
            there = self._older()
        return differences(of_earlier_version(there), self.identity) if isinstance(there, dict) else []

    def _older(self) -> Settings | None:
        """Return what changes the result of the run that the folder's YAML files describe, if it has any."""
        paths = {name: self.folder / f"{name}.yaml" for name in self.settings}
        try:
            found = {
                name: yaml.safe_load(path.read_text(encoding="utf-8")) for name, path in paths.items() if path.exists()
            }
            return self.identify(found) if found else None
        except (OSError, ValueError, TypeError, AttributeError, KeyError, yaml.YAMLError) as error:
            raise UserError(
                f"{self.folder} holds settings that are no run's ({error}); choose another output"
            ) from error

    def refuse_others(self) -> None:
        """Refuse another run's folder, or one of something else, before anything is written there."""
        self._refuse_differences()
        if not (self.folder / LOCK).exists():
            self._refuse_foreign()

    def settle(self) -> None:
        """Write those files that are not there, into a folder that is locked."""
        self._refuse_differences()  # which may have come meanwhile
        self._refuse_foreign()
        files = {f"{name}.yaml": content for name, content in self.settings.items()}
        for name, content in {**files, IDENTITY: json.dumps(self.identity, indent=1) + "\n"}.items():
            if not (self.folder / name).exists():
                write_text(self.folder / name, content)

    def _refuse_differences(self) -> None:
        found = self.differences()
        if found:
            raise UserError(
                f"{self.folder} holds a run with other settings ({cut_list(found)}); choose another output, or go on "
                "with its settings"
            )

    def _refuse_foreign(self) -> None:
        """Refuse a folder that is there, and is neither empty nor a run's."""
        if (self.folder / f"{next(iter(self.settings))}.yaml").exists() or not self.folder.exists():
            return
        ours = (LOCK, IDENTITY)
        if not self.folder.is_dir() or any(
            path.name not in ours and not path.name.startswith(PREFIX) for path in self.folder.iterdir()
        ):
            raise UserError(f"{self.folder} is in use and holds no run; choose another output")


def cut_list(items: Sequence[str], most: int = 4) -> str:
    """Return the first of some items, and how many more there are.

    >>> cut_list(["a", "b", "c"], most=2)
    'a; b; and 1 more'
    """
    return "; ".join([*items[:most], *([f"and {len(items) - most} more"] if len(items) > most else [])])
