"""``fastvmt transfer --jobs``: a list of transfers, by any number of processes, each job once."""

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

    Any number of processes may work on a list, and come and go: started by --devices, torchrun, srun, fabric run, a
    job array, or by hand. What is finished is not done again, and what was stopped goes on from its checkpoint.

    Args:
        jobs: CSV, TSV, JSONL or YAML file with a row a job, or a tar file of clips (NAME.mp4) and prompts (NAME.txt).
            A row has clip and prompt (or prompts, a list), and may have name, seed, and any option of fastvmt transfer
            but device and output, or dotted setting of its config, which then hold for it alone.
        output: Folder for the results; default: the list's name, under runs/.
        batch_size: The most jobs that run side by side; each takes memory.
        across_clips: Run jobs with the same settings side by side even if their clips differ; a small model is faster
            for it.
        devices: Processes to start, a device each; default: as many as the config's trainer.devices.
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
    num_processes = num_to_start(read_rank(), devices, read_config(config_of(options)))
    with one_of_many() as (rank, request):
        folder = claim_folder(output or Path("runs") / slug(jobs.stem), "job list")
        runner = JobRunner(folder, rank, request)
        finder = JobCheck(runner.compose_settings)
        verdicts = Verdicts(folder, finder)
        listed, no_jobs = read_jobs(jobs, options, folder / "clips")
        able, bad, costs = check_settings(listed, finder, request)
        able, taken = without_other_settings(able, folder, verdicts)
        unable = [*no_jobs, *bad, *taken]
        if check or not able:
            return _look_at(able, unable, verdicts, request)
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
    if rank.number:  # the first is there to the end, and says how it went
        return outcomes
    write_csv(folder / "results.csv", [asdict(outcome) for outcome in outcomes])
    conclude(outcomes, f"the videos are in {folder / 'jobs'}")
    return outcomes


def _look_at(able: Sequence[Job], unable: Sequence[Outcome], verdicts: Verdicts, request: StopRequest) -> list[Outcome]:
    """Read every clip, and report on all jobs without running any."""
    for job in {job.group: job for job in able}.values():
        request.check()
        verdicts.of(job)
    outcomes = [*map(verdicts.outcome, able), *unable]
    conclude(outcomes, "nothing has run")
    return outcomes
