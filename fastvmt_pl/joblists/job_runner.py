"""``fastvmt transfer --jobs``: a list of transfers, by any number of processes, each job once."""

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

import yaml

from fastvmt_pl.callbacks import Costs, RunFolder
from fastvmt_pl.errors import UserError
from fastvmt_pl.files.atomic import remove_unfinished, written_whole
from fastvmt_pl.files.names import slug
from fastvmt_pl.joblists.job_check import Checks, check_settings, cut
from fastvmt_pl.joblists.job_list import BATCH_SIZE, Job, Refusal, read_jobs
from fastvmt_pl.joblists.job_outcomes import Outcome, conclude, outcome_of, refused, report, write_table
from fastvmt_pl.joblists.job_queue import Batch, JobQueue, make_batches
from fastvmt_pl.processes.ranks import Rank, alone, num_to_start, read_rank, start_ranks, take_own_gpu
from fastvmt_pl.processes.sharing import FAILED, together
from fastvmt_pl.processes.stop_request import StopRequest, listening
from fastvmt_pl.runs.claims import cut_list, other_settings
from fastvmt_pl.runs.identity import differences, identity_of
from fastvmt_pl.runs.kept_backbone import KeptBackbone
from fastvmt_pl.runs.lightning_cli import TransferCLI
from fastvmt_pl.runs.options import as_words
from fastvmt_pl.runs.settings import read_config
from fastvmt_pl.runs.transfer_options import (
    TransferOptions,
    checkpoint_of,
    compose_transfer,
    config_of,
    fit,
    settings_of,
)


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
        jobs: CSV, TSV, JSONL or YAML file with a row a job, or a tar file of clips (NAME.mp4) and prompts (NAME.txt).
            A row has clip and prompt (or prompts, a list), and may have name, seed, and any option of fastvmt transfer
            but device and output, or dotted setting of its config, which then hold for it alone.
        output: Folder for the results; runs/ and the list's name if left out.
        batch_size: The most prompts of a clip that run side by side; each takes memory.
        devices: Processes to start, a device each; as many as the config's trainer.devices if left out.
        check: Only read every clip and check every setting, and say what is wrong.
        options: How to transfer; see :class:`~fastvmt_pl.runs.transfer_options.TransferOptions`.

    Returns:
        What became of each job.

    Raises:
        UserError: If the list cannot be read, or no job of it can run; nothing has run then.
        RuntimeError: If jobs failed or were refused; the others are done.
        Preempted: If SIGTERM or SIGUSR1 came; the same call goes on.
    """
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}; use at least 1")
    folder, rank, request = output or Path("runs") / slug(jobs.stem), read_rank(), StopRequest()
    num_processes = num_to_start(rank, devices, read_config(config_of(options)))
    with listening(request), alone(), _quiet():
        take_own_gpu(rank)
        if folder.exists() and not (folder / "jobs").exists() and any(folder.iterdir()):
            raise UserError(f"{folder} is in use and holds no list of jobs; choose another output")
        (folder / "jobs").mkdir(parents=True, exist_ok=True)
        runner = JobRunner(folder, rank, request)
        checks = Checks(folder, runner.compose)
        listed, no_jobs = read_jobs(jobs, options, folder / "clips")
        able, bad, costs = check_settings(listed, runner.compose, request)
        able, taken = _without_other_settings(able, folder / "jobs", checks)
        unable = [refused(refusal) for refusal in (*no_jobs, *bad, *taken)]
        if check or not able:
            return _look_at(able, unable, checks, request)
        if not rank.number:
            _announce(able, unable)
        batches = together(make_batches(able, costs, batch_size), lambda batch: batch.jobs[0].backbone, rank.number)
        queue = JobQueue(folder, batches, checks, runner.run, runner.is_begun, request)
        for job in (job for batch in batches for job in batch.jobs if not queue.is_done(job)):
            runner.prompts.setdefault(job.backbone, []).append(job.prompt)
        if num_processes > 1:
            given = {"jobs": jobs, "output": folder, "batch-size": batch_size}
            given |= {name.replace("_", "-"): value for name, value in options.items()}
            start_ranks(["transfer", *as_words(given)], num_processes, request)
        queue.work(to_the_end=rank.number == 0)
    outcomes = [*(outcome_of(job, checks, queue) for job in able), *unable]
    if rank.number:  # the first is there to the end, and says how it went
        return outcomes
    write_table(folder / "results.csv", outcomes)
    report(able, outcomes, checks)
    conclude(outcomes, f"the videos are in {folder / 'jobs'}")
    return outcomes


@dataclass
class JobRunner:
    """Runs batches of jobs in this process, with a backbone that stays in memory as long as they have the same.

    Args:
        folder: The run's folder.
        rank: Which process this is.
        request: Whether it was asked to stop.

    Attributes:
        prompts: The prompts that are still to do with each backbone, in their order.
    """

    folder: Path
    rank: Rank
    request: StopRequest

    def __post_init__(self) -> None:
        """Keep no backbone yet."""
        self.kept = KeptBackbone(self.request)
        self.prompts: dict[str, list[str]] = {}

    def compose(self, jobs: Sequence[Job], read_clips: bool, folder: Path | None = None) -> TransferCLI:
        """Return the transfer of some jobs of one group, with their clip or only with their settings."""
        first = jobs[0]
        settings = first.settings | {"data.clips": [str(first.clip)], "data.prompts": [job.prompt for job in jobs]}
        settings |= {"data.seed": [job.seed for job in jobs], "trainer.num_nodes": 1}
        settings.setdefault("trainer.devices", settings_of(first.options).get("trainer.devices", 1))
        folders = [self.folder / "jobs" / job.name for job in jobs]
        place = folder or self.folder / "batches"
        progress = not self.rank.launched  # of several processes, it would be a jumble
        results = [Costs(), RunFolder(place, folders)]
        return compose_transfer(first.options, settings, place, results, self.request, progress, read_clips)

    def is_begun(self, batch: Batch) -> bool:
        """Return whether a batch has a checkpoint."""
        return checkpoint_of(self._folder_of(batch)).exists()

    def _folder_of(self, batch: Batch) -> Path:
        return self.folder / "batches" / batch.key

    def run(self, batch: Batch) -> None:
        """Run a batch, from its checkpoint if it has one."""
        folder = self._folder_of(batch)
        remove_unfinished(folder)
        cli = self.compose(batch.jobs, True, folder)
        config = cli.parser.dump(cli.config, skip_link_targets=False)
        if self.is_begun(batch):
            _refuse_another_device(folder, config)
        self.kept.lend(cli, self.prompts.get(batch.jobs[0].backbone, []))
        for path in (folder, *(self.folder / "jobs" / job.name for job in batch.jobs)):
            with written_whole(path / "config.yaml") as temporary:
                temporary.write_text(config, encoding="utf-8")
        fit(cli, folder)
        for job in batch.jobs:
            (self.folder / "jobs" / job.name / FAILED).unlink(missing_ok=True)
        print(f"process {self.rank.number}: {', '.join(job.name for job in batch.jobs)} done", flush=True)


def _refuse_another_device(folder: Path, config: str) -> None:
    """Refuse to go on from the checkpoint of a device on which ``dtype: auto`` is another precision.

    Raises:
        RuntimeError: If a setting of the batch differs from those that it was begun with.
    """
    before = folder / "config.yaml"
    found = differences(identity_of(read_config(before)), identity_of(yaml.safe_load(config)))
    if found:
        raise RuntimeError(
            f"{folder} was begun with other settings ({cut_list(found)}); go on on such a device, or delete it"
        )


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


def _without_other_settings(jobs: Sequence[Job], folder: Path, checks: Checks) -> tuple[list[Job], list[Refusal]]:
    """Return the jobs whose folders are free or hold the very same jobs, and those whose folders hold others."""
    able, taken, present = list[Job](), list[Refusal](), set(os.listdir(folder))
    for job in jobs:
        try:
            differing = _differing(job, folder / job.name, checks) if job.name in present else []
        except UserError as error:  # what the folder holds cannot be read
            taken.append(Refusal(job.name, str(error)))
            continue
        if differing:
            reason = f"{folder / job.name} holds a job with other settings ({cut_list(differing)}); rename one of them"
            taken.append(Refusal(job.name, reason))
        else:
            able.append(job)
    return able, taken


def _differing(job: Job, folder: Path, checks: Checks) -> list[str]:
    """Return which settings of a job differ from those in its folder; a clip is only read if its length decides."""
    found = other_settings(folder, job.identify, job=job.described())
    if len(found) == 1 and found[0].startswith("data.num_frames:"):
        shorter = cut([job], checks.verdict([job]).num_frames)[0]
        return other_settings(folder, shorter.identify, job=shorter.described())
    return found


def _look_at(able: Sequence[Job], unable: Sequence[Outcome], checks: Checks, request: StopRequest) -> list[Outcome]:
    """Read every clip, and report on all jobs without running any."""
    for job in {job.group: job for job in able}.values():
        request.check()
        checks.verdict([job])
    outcomes = [*(outcome_of(job, checks) for job in able), *unable]
    report(able, outcomes, checks)
    conclude(outcomes, "nothing has run")
    return outcomes


def _announce(able: Sequence[Job], unable: Sequence[Outcome]) -> None:
    """Print what is about to run, and what cannot."""
    clips = len({job.clip for job in able})
    print(f"{len(able) + len(unable)} jobs: {len(able)} on {clips} clips can begin, {len(unable)} are refused")
    for outcome in unable:
        print(f"refused: {outcome.name}: {outcome.detail}", flush=True)
