"""``fastvmt sweep``: the same jobs under many settings, and what each setting is worth."""

import itertools
import tempfile
from pathlib import Path
from typing import Any

import yaml

from fastvmt_pl.clips import read_clip
from fastvmt_pl.errors import UserError
from fastvmt_pl.experiments.experiment import Experiment, ToyJobs, config_of, make_jobs, read_experiment
from fastvmt_pl.experiments.sweep_runs import Runs, compose_run
from fastvmt_pl.experiments.sweep_table import Row, summarise
from fastvmt_pl.files.atomic import written_whole
from fastvmt_pl.processes.ranks import alone, num_to_start, read_rank, start_ranks, take_own_gpu
from fastvmt_pl.processes.stop_request import StopRequest, listening
from fastvmt_pl.runs.claims import shared_folder
from fastvmt_pl.runs.identity import Settings, flat, identity_of_overridden
from fastvmt_pl.runs.lightning_cli import TransferCLI
from fastvmt_pl.runs.settings import read_config
from fastvmt_pl.toy.toy_world import NUM_FRAMES, SIZE


def sweep(experiment: Path, output: Path, devices: int | None = None) -> list[Row]:
    """Run the same jobs under many settings and compare them.

    Any number of processes may work on a sweep, started as those of a list of transfers are; each run is one's.

    Args:
        experiment: YAML file of settings and jobs, such as configs/experiment/reuse.yaml.
        output: Folder for all runs and the results; what is finished there is not done again.
        devices: Processes to start, a device each; as many as the config's trainer.devices if left out.

    Returns:
        A row for each job of each setting, as in results.csv.

    Raises:
        ValueError: If the experiment, a setting or a clip cannot be used; nothing has run then.
        RuntimeError: If some runs failed; the others are done.
        Preempted: If SIGTERM or SIGUSR1 came; the same call goes on.
    """
    plan = read_experiment(experiment)
    config = config_of(plan, experiment)
    rank, request = read_rank(), StopRequest()
    base = read_config(config)
    num_processes = num_to_start(rank, devices, base)
    with listening(request), alone():
        take_own_gpu(rank)
        described = _checked(plan, experiment, config, request)
        same = {"config": yaml.safe_dump(base), "common": yaml.safe_dump(plan.common), "jobs": described}
        with shared_folder(output, _identity, **same):  # other settings have other folders
            jobs = make_jobs(plan, experiment, output / "clips")
        runs = Runs(plan, config, jobs, output, request, rank.number)
        if num_processes > 1:
            start_ranks(["sweep", str(experiment), str(output)], num_processes, request)
        runs.work(to_the_end=rank.number == 0)
    if rank.number:  # the first is there to the end, and says how it went
        return runs.rows()
    rows = runs.collect()
    summary = summarise(rows, plan.reference)
    with written_whole(output / "summary.md") as path:
        path.write_text(summary + "\n", encoding="utf-8")
    print(f"{summary}\n\nthe results are in {output}")
    failed = runs.failed()
    if failed:
        raise RuntimeError(f"{len(failed)} runs failed: {'; '.join(failed[:3])}")
    return rows


def _identity(files: dict[str, Any]) -> Settings:
    """Return what changes the results of a sweep, given its files; each setting has a folder of its own."""
    settings = identity_of_overridden(files.get("config") or {}, files.get("common") or {})
    return settings | flat({"jobs": files.get("jobs") or []})


def _checked(plan: Experiment, experiment: Path, config: Path, request: StopRequest) -> str:
    """Check every setting and read every clip before anything is run or written; return, as YAML, which jobs they are.

    A clip is read once for all settings that read the same frames of it.
    """
    with tempfile.TemporaryDirectory() as scratch:
        jobs = make_jobs(plan, experiment, Path(scratch))
        intervals = set()
        for overrides in plan.all_settings.values():
            request.check()
            cli = compose_run(plan, config, jobs, overrides, range(len(jobs)), read_clips=False)
            _check_toy(cli, plan)
            data = cli.datamodule
            intervals.add((data.num_frames, data.start, data.end, data.stride, data.fps, data.decoder))
        for clip, interval in itertools.product(dict.fromkeys(job.clip for job in jobs), intervals):
            request.check()
            num_frames, start, end, stride, fps, decoder = interval
            read_clip(clip, num_frames, start=start, end=end, stride=stride, fps=fps, decoder=decoder)
        described: str = yaml.safe_dump([{"sha256": job.content, "prompt": job.prompt} for job in jobs])
    return described


def _check_toy(cli: TransferCLI, plan: Experiment) -> None:
    """Refuse toy jobs in another geometry than the toy world's, in which their true paths mean nothing."""
    geometry = cli.datamodule.num_frames, *cli.datamodule.size
    if isinstance(plan.jobs, ToyJobs) and geometry != (NUM_FRAMES, SIZE, SIZE):
        raise UserError(
            f"toy jobs have {NUM_FRAMES} frames of {SIZE} x {SIZE}, but a setting has {geometry[0]} of {geometry[1]} x "
            f"{geometry[2]}; leave data.num_frames and data.size alone"
        )
