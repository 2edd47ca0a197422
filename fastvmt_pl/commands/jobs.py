"""``fastvmt transfer --jobs``: a list of transfers, by any number of processes, each job once."""

import csv
import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, Unpack

from fastvmt_pl.callbacks import RunFolder
from fastvmt_pl.commands.job_check import Verdict, check_jobs, cut
from fastvmt_pl.commands.job_list import BATCH_SIZE, Job, Refusal, read_jobs
from fastvmt_pl.commands.job_queue import Batch, JobQueue, make_batches
from fastvmt_pl.commands.kept_backbone import KeptBackbone
from fastvmt_pl.commands.lightning import TransferCLI
from fastvmt_pl.commands.options import as_words, cut_list, other_settings, read_config, slug
from fastvmt_pl.commands.sharing import FAILED
from fastvmt_pl.commands.transfer_options import (
    TransferOptions,
    checkpoint_of,
    compose_transfer,
    config_of,
    fit,
    settings_of,
)
from fastvmt_pl.errors import UserError
from fastvmt_pl.files import remove_unfinished, written_whole
from fastvmt_pl.preemption import StopRequest, listening
from fastvmt_pl.ranks import Rank, alone, num_to_start, read_rank, start_ranks, take_own_gpu


@dataclass(frozen=True)
class Outcome:
    """What became of a job of a list.

    Attributes:
        name: Its name, or where it stands in the list.
        status: Finished, failed, refused before anything ran, or in the hands of another process.
        detail: Why it failed or was refused, or what was changed.
        video: Its video.
    """

    name: str
    status: Literal["done", "failed", "refused", "open"]
    detail: str = ""
    video: str = ""


def transfer_jobs(
    jobs: Path,
    output: Path | None = None,
    batch_size: int = BATCH_SIZE,
    devices: int | None = None,
    check: bool = False,
    **options: Unpack[TransferOptions],
) -> list[Outcome]:
    """Run a list of transfers.

    Any number of processes may work on a list, and come and go: started by --devices, torchrun, srun, fabric run, a
    job array, or by hand. What is finished is not done again, what was stopped goes on where it was.

    Args:
        jobs: CSV, JSONL or YAML file with a row a job, or a tar file of clips (NAME.mp4) and prompts (NAME.txt). A row
            has clip and prompt (or prompts, a list), and may have name, seed, and any option of fastvmt transfer but
            device and output, or dotted setting of its config, which then hold for it alone.
        output: Folder for the results; runs/ and the list's name if left out.
        batch_size: The most prompts of a clip that run side by side; each takes memory.
        devices: Processes to start, a device each; as many as the config's trainer.devices if left out.
        check: Only look at every clip and setting, and say what is wrong.
        options: How to transfer; see :class:`~fastvmt_pl.commands.transfer_options.TransferOptions`.

    Returns:
        What became of each job.

    Raises:
        ValueError: If the list cannot be read, or no job of it can run; nothing has run then.
        RuntimeError: If jobs failed or were refused; the others are done.
        Preempted: If SIGTERM or SIGUSR1 came; the same call goes on.
    """
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}; use at least 1")
    folder, rank, request = output or Path("runs") / slug(jobs.stem), read_rank(), StopRequest()
    num_processes = num_to_start(rank, devices, read_config(config_of(options)))
    with listening(request), alone(), _quiet():
        take_own_gpu(rank)
        runner = JobRunner(folder, rank, request)
        if folder.exists() and not (folder / "jobs").exists() and any(folder.iterdir()):
            raise UserError(f"{folder} is in use and holds no list of jobs; choose another output")
        (folder / "jobs").mkdir(parents=True, exist_ok=True)
        listed, refused = read_jobs(jobs, options, folder / "clips")
        verdicts = check_jobs(listed, folder, runner.compose, request)
        able, refused = _able(listed, refused, verdicts, folder)
        if not rank.number:
            _report(able, refused, verdicts)
        if check or not able:
            return _concluded([Outcome(job.name, "open") for job in able], refused, "nothing has run")
        batches = make_batches(able, verdicts, batch_size)
        queue = JobQueue(folder / "jobs", batches, runner.run, runner.is_begun, request)
        runner.kept.prompts = sorted({job.prompt for job in able if not queue.is_done(job)})
        if num_processes > 1:
            given = {"jobs": jobs, "output": folder, "batch-size": batch_size}
            given |= {name.replace("_", "-"): value for name, value in options.items()}
            start_ranks(["transfer", *as_words(given)], num_processes, request)
        queue.work(to_the_end=rank.number == 0)
    outcomes = [_outcome(queue, job, verdicts[job.group]) for job in able]
    if rank.number:  # the first is there to the end, and says how it went
        return outcomes
    _write_table(folder / "results.csv", [*outcomes, *map(_refused, refused)])
    return _concluded(outcomes, refused, f"the videos lie in {folder / 'jobs'}")


@dataclass
class JobRunner:
    """Runs batches of jobs in this process, with a backbone that stays in memory as long as they have the same.

    Args:
        folder: The run's folder.
        rank: Which process this is.
        request: Whether it was asked to stop.
    """

    folder: Path
    rank: Rank
    request: StopRequest

    def __post_init__(self) -> None:
        """Keep no backbone yet."""
        self.kept = KeptBackbone((), self.request)

    def compose(self, jobs: Sequence[Job], folder: Path | None = None) -> TransferCLI:
        """Return the transfer of some jobs of one group."""
        first = jobs[0]
        settings = {name: "null" if value is None else value for name, value in first.settings.items()}
        settings |= {"data.clips": [str(first.clip)], "data.prompts": [job.prompt for job in jobs]}
        settings |= {"data.seed": [job.seed for job in jobs], "trainer.num_nodes": 1}
        settings.setdefault("trainer.devices", settings_of(first.options).get("trainer.devices", 1))
        folders = [self.folder / "jobs" / job.name for job in jobs]
        place = folder or self.folder / "batches"
        progress = not self.rank.launched  # of several processes, it would be a jumble
        return compose_transfer(
            first.options, settings, place, RunFolder(place, folders), self.request, progress=progress
        )

    def is_begun(self, batch: Batch) -> bool:
        """Return whether a batch has a checkpoint."""
        return checkpoint_of(self._folder_of(batch)).exists()

    def _folder_of(self, batch: Batch) -> Path:
        return self.folder / "batches" / batch.key

    def run(self, batch: Batch) -> None:
        """Run a batch, from its checkpoint if it has one."""
        folder = self._folder_of(batch)
        remove_unfinished(folder)
        cli = self.compose(batch.jobs, folder)
        self.kept.lend(cli)
        config = cli.parser.dump(cli.config, skip_link_targets=False)
        for path in (folder, *(self.folder / "jobs" / job.name for job in batch.jobs)):
            with written_whole(path / "config.yaml") as temporary:
                temporary.write_text(config, encoding="utf-8")
        fit(cli, folder)
        for job in batch.jobs:
            (self.folder / "jobs" / job.name / FAILED).unlink(missing_ok=True)
        print(f"process {self.rank.number}: {', '.join(job.name for job in batch.jobs)} done", flush=True)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning from telling about devices and epochs, once a job."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(level)


def _able(
    jobs: Sequence[Job], refused: Sequence[Refusal], verdicts: Mapping[str, Verdict], folder: Path
) -> tuple[list[Job], list[Refusal]]:
    """Return the jobs that can run, and all that cannot."""
    able, others = list[Job](), list(refused)
    for job in jobs:
        verdict, kept = verdicts[job.group], folder / "jobs" / job.name
        if verdict.status == "refused":
            others.append(Refusal(job.name, verdict.detail))
            continue
        shortened = cut(job, verdict.num_frames)
        try:
            differing = other_settings(kept, shortened.identify, job=shortened.described())
        except UserError as error:
            others.append(Refusal(job.name, str(error)))
            continue
        if differing:
            reason = f"{kept} holds a job with other settings ({cut_list(differing)}); rename one of them"
            others.append(Refusal(job.name, reason))
        else:
            able.append(job)
    return able, others


def _report(able: Sequence[Job], refused: Sequence[Refusal], verdicts: Mapping[str, Verdict]) -> None:
    """Print which jobs run as they are, which with fewer frames, and which not, and why."""
    trimmed = {job.name: verdicts[job.group] for job in able if verdicts[job.group].status == "trimmed"}
    clips = len({job.clip for job in able})
    counts = f"{len(able) - len(trimmed)} kept, {len(trimmed)} trimmed, {len(refused)} refused"
    print(f"{len(able) + len(refused)} jobs: {counts}; {clips} clips")
    for name, verdict in trimmed.items():
        print(f"trimmed to {verdict.num_frames} frames: {name}: {verdict.detail}")
    for refusal in refused:
        print(f"refused: {refusal.name}: {refusal.reason}", flush=True)


def _outcome(queue: JobQueue, job: Job, verdict: Verdict) -> Outcome:
    if queue.is_done(job):
        detail = "" if verdict.num_frames is None else f"trimmed to {verdict.num_frames} frames"
        return Outcome(job.name, "done", detail, str(queue.folder / job.name / "output.mp4"))
    return Outcome(job.name, "failed", queue.failure(job) or "") if queue.failure(job) else Outcome(job.name, "open")


def _refused(refusal: Refusal) -> Outcome:
    return Outcome(refusal.name, "refused", refusal.reason)


def _write_table(path: Path, outcomes: Sequence[Outcome]) -> None:
    with written_whole(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(Outcome.__annotations__))
        writer.writeheader()
        writer.writerows(asdict(outcome) for outcome in outcomes)


def _concluded(outcomes: Sequence[Outcome], refused: Sequence[Refusal], where: str) -> list[Outcome]:
    """Print what became of the jobs.

    Raises:
        ValueError: If none could run.
        RuntimeError: If some failed or were refused.
    """
    outcomes = [*outcomes, *map(_refused, refused)]
    counts = Counter(outcome.status for outcome in outcomes)
    print(f"{where}; {', '.join(f'{count} {status}' for status, count in counts.items())}", flush=True)
    bad = [outcome.name for outcome in outcomes if outcome.status in ("failed", "refused")]
    if outcomes and counts["refused"] == len(outcomes):
        raise UserError(f"no job of the list can run: {bad[0]}: {outcomes[0].detail}")
    if bad:
        raise RuntimeError(f"{len(bad)} of {len(outcomes)} jobs failed or were refused: {', '.join(bad)}")
    return outcomes
