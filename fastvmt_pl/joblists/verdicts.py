"""What is known of the clips of a list, by all processes that work on it."""

import json
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal

from fastvmt_pl.clips import TooShortError
from fastvmt_pl.errors import one_line
from fastvmt_pl.files.atomic import write_text
from fastvmt_pl.joblists.job import Job, Outcome, stamp_of
from fastvmt_pl.joblists.job_check import BAD, JobCheck, cut
from fastvmt_pl.processes.failures import now_of

SHORTEST = 5
"""Frames below which a clip has no motion to speak of."""


@dataclass(frozen=True)
class Verdict:
    """Whether the jobs of a group can run.

    Attributes:
        status: Whether they can run, or can with fewer frames.
        detail: Why not, or why fewer, and what to change.
        num_frames: How many frames they are cut to.
    """

    status: Literal["kept", "trimmed", "refused"]
    detail: str = ""
    num_frames: int | None = None


class Verdicts:
    """Whether jobs can run, found out when a process comes to the first one of a group.

    A verdict is kept in a file for each group, for other processes and later starts; a refusal only for processes that
    had begun by then, since what is wrong may have been put right by the next start.

    Args:
        folder: The list's folder.
        check: Finds faults of jobs.
    """

    def __init__(self, folder: Path, check: JobCheck) -> None:
        self.folder, self.check = folder / "checked", check
        self.begun = now_of(folder)
        self._found: dict[str, Verdict] = {}

    def known(self, job: Job) -> Verdict | None:
        """Return what was found out about a job's group, here or by another process, if anything was."""
        if job.group not in self._found:
            path = self._path(job)
            if path.exists():
                found = Verdict(**json.loads(path.read_text(encoding="utf-8")))
                if found.status != "refused" or path.stat().st_mtime_ns >= self.begun:
                    self._found[job.group] = found
        return self._found.get(job.group)

    def of(self, job: Job) -> Verdict:
        """Return what is known of a job's group, or check the job and read its clip."""
        found = self.known(job)
        if found is None:
            found = self._found[job.group] = self._find(job)
            with suppress(OSError):  # the disk may be full
                write_text(self._path(job), json.dumps(asdict(found)) + "\n")
        return found

    def outcome(self, job: Job) -> Outcome:
        """Return what is known of a job that has not run."""
        found = self.known(job)
        if found is not None and found.status == "refused":
            return Outcome(job.name, "refused", found.detail)
        num_frames = None if found is None else found.num_frames
        return Outcome(job.name, "open", "" if num_frames is None else f"trimmed to {num_frames} frames")

    def _find(self, job: Job) -> Verdict:
        """Check a job; a clip that is too short is used with as many frames as it has."""
        try:
            self.check.read(job)
        except TooShortError as error:
            if error.num_frames < SHORTEST:
                return Verdict("refused", str(error))
            shorter = self._find(cut(job, error.num_frames))
            return shorter if shorter.status == "refused" else Verdict("trimmed", str(error), error.num_frames)
        except BAD as error:
            return Verdict("refused", one_line(str(error)))
        return Verdict("kept")

    def _path(self, job: Job) -> Path:
        return self.folder / f"{sha256(f'{job.group} {stamp_of(job.clip)}'.encode()).hexdigest()[:16]}.json"
