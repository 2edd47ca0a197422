"""Verdicts on whether jobs can run, shared by all processes that work on a list."""

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
"""Smallest number of frames that a clip can be used with."""


@dataclass(frozen=True)
class Verdict:
    """Whether the jobs of a group can run.

    Attributes:
        status: Whether they can run, can run with fewer frames, or cannot run.
        detail: Why they cannot, or why with fewer frames, and what to change.
        num_frames: Number of frames that they are limited to.
    """

    status: Literal["kept", "trimmed", "refused"]
    detail: str = ""
    num_frames: int | None = None


class Verdicts:
    """Finds out whether jobs can run, when the first job of a group comes up.

    Each group's verdict is kept in a file for other processes and later starts. Processes that start after a refusal
    ignore it, since the fault may have been fixed.

    Args:
        folder: The list's folder.
        check: Checks jobs.
    """

    def __init__(self, folder: Path, check: JobCheck) -> None:
        self.folder, self.check = folder / "checked", check
        self.begun = now_of(folder)
        self._found: dict[str, Verdict] = {}

    def known(self, job: Job) -> Verdict | None:
        """Return the verdict on a job's group, by any process; ``None`` if there is none yet."""
        if job.group not in self._found:
            path = self._path(job)
            if path.exists():
                found = Verdict(**json.loads(path.read_text(encoding="utf-8")))
                if found.status != "refused" or path.stat().st_mtime_ns >= self.begun:
                    self._found[job.group] = found
        return self._found.get(job.group)

    def of(self, job: Job) -> Verdict:
        """Return the verdict on a job's group. If there is none yet, check the job and read its clip."""
        found = self.known(job)
        if found is None:
            found = self._found[job.group] = self._find(job)
            with suppress(OSError):  # the disk may be full
                write_text(self._path(job), json.dumps(asdict(found)) + "\n")
        return found

    def outcome(self, job: Job) -> Outcome:
        """Return the outcome so far of a job that has not run."""
        found = self.known(job)
        if found is not None and found.status == "refused":
            return Outcome(job.name, "refused", found.detail)
        num_frames = None if found is None else found.num_frames
        return Outcome(job.name, "open", "" if num_frames is None else f"trimmed to {num_frames} frames")

    def _find(self, job: Job) -> Verdict:
        """Check a job. If its clip is too short, check it with the frames that the clip has."""
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
