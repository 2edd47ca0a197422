"""``fastvmt sweep``: the same jobs under many settings, and what each setting is worth."""

import tempfile
from argparse import ArgumentError
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lightning import Callback

from fastvmt_pl.callbacks import Costs, JobScores, RunFolder
from fastvmt_pl.errors import UserError, one_line
from fastvmt_pl.experiments.experiment import read_experiment
from fastvmt_pl.experiments.results_table import ResultsTable
from fastvmt_pl.experiments.summary import Row, summarise
from fastvmt_pl.experiments.trials import Trial, make_trials
from fastvmt_pl.files.atomic import write_text
from fastvmt_pl.joblists.batches import make_batches
from fastvmt_pl.joblists.job import Job, forget_files
from fastvmt_pl.joblists.job_check import JobCheck
from fastvmt_pl.joblists.job_outcomes import conclude
from fastvmt_pl.joblists.job_queue import JobQueue
from fastvmt_pl.joblists.job_runner import JobRunner
from fastvmt_pl.joblists.verdicts import Verdicts
from fastvmt_pl.joblists.working import claim_folder, one_of_many, without_other_settings
from fastvmt_pl.processes.ranks import num_to_start, read_rank, start_ranks
from fastvmt_pl.processes.stop_request import StopRequest
from fastvmt_pl.runs.settings import read_config
from fastvmt_pl.toy.toy_world import NUM_FRAMES, SIZE


def sweep(experiment: Path, output: Path, devices: int | None = None) -> list[Row]:
    """Run the same jobs under many settings and compare them.

    Any number of processes may work on a sweep, started as those of a list of transfers are.

    Args:
        experiment: YAML file of settings and jobs, such as configs/experiment/reuse.yaml.
        output: Folder for all jobs and the results; what is finished there is not done again.
        devices: Processes to start, a device each; default: as many as the config's trainer.devices.

    Returns:
        A row for each job of each setting, as in results.csv.

    Raises:
        UserError: If the experiment, a setting or a clip cannot be used; nothing has run then.
        RuntimeError: If some jobs failed; the others are done.
        Preempted: If SIGTERM or SIGUSR1 came; the same call goes on.
    """
    plan = read_experiment(experiment)
    num_processes = num_to_start(read_rank(), devices, read_config(Path(plan.config)))
    with one_of_many() as (rank, request):
        with tempfile.TemporaryDirectory() as scratch:
            trials = make_trials(plan, Path(scratch))
            runner = JobRunner(output, rank, request, _scored(trials))
            check = JobCheck(runner.compose_settings)
            _check(trials, check, request)
        trials = make_trials(plan, claim_folder(output, "sweep") / "clips")
        verdicts, table = Verdicts(output, check), ResultsTable(output, trials)
        forget_files()
        jobs, taken = without_other_settings([trial.job for trial in trials], output, verdicts)
        if taken:
            raise UserError(f"{taken[0].detail}, or choose another output")
        costs = {job.kind: check.needs(job).cost for job in jobs}
        batches = make_batches(jobs, costs, plan.batch_size, across_clips=True, number=rank.number)
        queue = JobQueue(runner, batches, verdicts, after=table.update)
        if num_processes > 1:
            start_ranks(["sweep", str(experiment), str(output)], num_processes, request)
        queue.work(to_the_end=rank.number == 0)
    if rank.number:  # the first is there to the end, and says how it went
        return table.rows()
    rows = table.finish()
    summary = summarise(rows, plan.reference)
    write_text(output / "summary.md", summary + "\n")
    print(summary, end="\n\n")
    conclude([queue.outcome(job) for job in jobs], f"the results are in {output}")
    return rows


def _scored(trials: Sequence[Trial]) -> Callable[[Sequence[Job], RunFolder], list[Callback]]:
    """Return what makes the callbacks of jobs whose videos are scored before they are encoded."""
    toys = {trial.job.name: trial.toy for trial in trials if trial.toy is not None}

    def results(jobs: Sequence[Job], folder: RunFolder) -> list[Callback]:
        judges = [toys[job.name].judge if job.name in toys else None for job in jobs]
        return [Costs(profile_cpu=True), JobScores(folder, judges), folder]

    return results


def _check(trials: Sequence[Trial], check: JobCheck, request: StopRequest) -> None:
    """Check every setting and read every clip.

    Raises:
        UserError: If one cannot be used, or toy clips would be read in another geometry than the toy world's, in which
            their true paths mean nothing.
    """
    for trial in trials:
        request.check()
        with _blaming(trial):
            needs = check.needs(trial.job)
        geometry = needs.frames["num_frames"], *needs.size
        if trial.toy is not None and geometry != (NUM_FRAMES, SIZE, SIZE):
            raise UserError(
                f"toy jobs have {NUM_FRAMES} frames of {SIZE} x {SIZE}, but {trial.setting!r} has {geometry[0]} of "
                f"{geometry[1]} x {geometry[2]}; leave data.num_frames and data.size alone"
            )
        with _blaming(trial):
            check.read(trial.job)


@contextmanager
def _blaming(trial: Trial) -> Iterator[None]:
    """Name a trial in what is raised of it."""
    try:
        yield
    except (UserError, ArgumentError) as error:
        raise UserError(f"job {trial.number} of setting {trial.setting!r}: {one_line(str(error))}") from error
