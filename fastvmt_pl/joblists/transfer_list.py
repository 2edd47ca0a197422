"""``fastvmt transfer --jobs``: run a list of transfers with any number of processes."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Unpack

from fastvmt_pl.errors import UserError
from fastvmt_pl.files.names import slug
from fastvmt_pl.joblists.batches import BATCH_SIZE, make_batches
from fastvmt_pl.joblists.job import Job, Outcome
from fastvmt_pl.joblists.job_check import JobCheck, check_settings
from fastvmt_pl.joblists.job_list import read_jobs
from fastvmt_pl.joblists.job_outcomes import conclude, write_csv
from fastvmt_pl.joblists.job_queue import JobQueue
from fastvmt_pl.joblists.job_runner import JobRunner
from fastvmt_pl.joblists.verdicts import Verdicts
from fastvmt_pl.joblists.working import claim_folder, one_of_many, without_other_settings
from fastvmt_pl.processes.ranks import num_to_start, read_rank, start_ranks
from fastvmt_pl.processes.stop_request import StopRequest
from fastvmt_pl.runs.options import as_words
from fastvmt_pl.runs.settings import read_config
from fastvmt_pl.runs.transfer_options import TransferOptions, config_of


def transfer_jobs(
    jobs: Path,
    output: Path | None = None,
    batch_size: int = BATCH_SIZE,
    across_clips: bool = False,
    devices: int | None = None,
    check: bool = False,
    **options: Unpack[TransferOptions],
) -> list[Outcome]:
    """Run a list of transfers.

    Any number of processes may work on a list, started by --devices, torchrun, srun, fabric run, a job array, or by
    hand, at any time. Finished jobs are not run again, and stopped jobs resume from their checkpoints.

    Args:
        jobs: CSV, TSV, JSONL or YAML file with a row per job, or a tar file of clips (NAME.mp4) and prompts (NAME.txt).
            A row has clip and prompt (or prompts, a list), and may have name, seed, any option of fastvmt transfer
            except device and output, and any dotted setting of its config; these apply to this row only.
        output: Folder for the results. Default: the list's name, under runs/.
        batch_size: Largest number of jobs that run side by side; each takes memory.
        across_clips: Also run jobs with the same settings but different clips side by side, which is faster for a small
            model.
        devices: Number of processes to start, one per device. Default: the config's trainer.devices.
        check: Only read every clip, check every setting, and report errors.
        options: Options of the transfers; see :class:`~fastvmt_pl.runs.transfer_options.TransferOptions`.

    Returns:
        The outcome of each job.

    Raises:
        UserError: If the list cannot be read, or no job of it can run; nothing has run then.
        RuntimeError: If jobs failed or were refused; the others are done.
        Preempted: If SIGTERM or SIGUSR1 was received; the same call resumes.
    """
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}; use at least 1")
    num_processes = num_to_start(read_rank(), devices, read_config(config_of(options)))
    with one_of_many() as (rank, request):
        folder = claim_folder(output or Path("runs") / slug(jobs.stem), "job list")
        runner = JobRunner(folder, rank, request)
        job_check = JobCheck(runner.compose_settings)
        verdicts = Verdicts(folder, job_check)
        listed, no_jobs = read_jobs(jobs, options, folder / "clips")
        able, bad, costs = check_settings(listed, job_check, request)
        able, taken = without_other_settings(able, folder, verdicts)
        unable = [*no_jobs, *bad, *taken]
        if check or not able:
            return _check_clips(able, unable, verdicts, request)
        for outcome in unable if rank.number == 0 else []:
            print(f"refused: {outcome.name}: {outcome.detail}", flush=True)
        batches = make_batches(able, costs, batch_size, across_clips=across_clips, number=rank.number)
        queue = JobQueue(runner, batches, verdicts)
        if num_processes > 1:
            given = {"jobs": jobs, "output": folder, "batch-size": batch_size, "across-clips": across_clips}
            given |= {name.replace("_", "-"): value for name, value in options.items()}
            start_ranks(["transfer", *as_words(given)], num_processes, request)
        queue.work(to_the_end=rank.number == 0)
    outcomes = [*map(queue.outcome, able), *unable]
    if rank.number:  # only the first process waits for the others, and reports
        return outcomes
    write_csv(folder / "results.csv", [asdict(outcome) for outcome in outcomes])
    conclude(outcomes, f"the videos are in {folder / 'jobs'}")
    return outcomes


def _check_clips(
    able: Sequence[Job], unable: Sequence[Outcome], verdicts: Verdicts, request: StopRequest
) -> list[Outcome]:
    """Read every clip, and report on all jobs without running any."""
    for job in {job.group: job for job in able}.values():
        request.check()
        verdicts.of(job)
    outcomes = [*map(verdicts.outcome, able), *unable]
    conclude(outcomes, "nothing has run")
    return outcomes
