"""Run batches of jobs in one process."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from lightning import Callback

from fastvmt_pl.callbacks import Costs, RunFolder
from fastvmt_pl.files.atomic import remove_unfinished, write_text
from fastvmt_pl.joblists.batches import Batch
from fastvmt_pl.joblists.job import Job
from fastvmt_pl.processes.failures import FAILED
from fastvmt_pl.processes.ranks import Rank
from fastvmt_pl.processes.stop_request import StopRequest
from fastvmt_pl.runs.claims import cut_list
from fastvmt_pl.runs.identity import differences, identity_of
from fastvmt_pl.runs.kept_backbone import KeptBackbone
from fastvmt_pl.runs.lightning_cli import TransferCLI
from fastvmt_pl.runs.settings import read_config
from fastvmt_pl.runs.transfer_options import checkpoint_of, compose_transfer, fit, settings_of

Results = Callable[[Sequence[Job], RunFolder], list[Callback]]
"""Makes the callbacks that measure jobs and write their results; the run folder comes last."""


@dataclass
class JobRunner:
    """Runs batches of jobs in this process, and keeps the backbone in memory between batches that share it.

    Args:
        folder: The list's folder.
        rank: The number of this process.
        request: Whether it was asked to stop.
        results: Makes the callbacks of a batch.
    """

    folder: Path
    rank: Rank
    request: StopRequest
    results: Results = lambda jobs, folder: [Costs(), folder]

    def __post_init__(self) -> None:
        """Start without a backbone."""
        self.kept = KeptBackbone(self.request)
        self.prompts: dict[str, list[str]] = {}

    def expect(self, jobs: Sequence[Job]) -> None:
        """Note the jobs that follow, so that their prompts can be embedded together."""
        for job in jobs:
            self.prompts.setdefault(job.backbone, []).append(job.prompt)

    def compose_settings(self, job: Job) -> TransferCLI:
        """Return the transfer of a job, with its settings checked and its clip not read."""
        return self._compose([job], self.folder / "batches", read_clips=False)

    def _compose(self, jobs: Sequence[Job], place: Path, read_clips: bool) -> TransferCLI:
        """Return the transfer of some jobs with the same settings."""
        first, clips = jobs[0], [str(job.clip) for job in jobs]
        settings = first.settings | {"data.clips": clips if len(set(clips)) > 1 else clips[:1]}
        settings |= {"data.prompts": [job.prompt for job in jobs], "data.seed": [job.seed for job in jobs]}
        images = [str(job.image) for job in jobs if job.image is not None]
        if images:
            settings["data.images"] = images if len(set(images)) > 1 else images[:1]
        settings["trainer.num_nodes"] = 1
        settings.setdefault("trainer.devices", settings_of(first.options).get("trainer.devices", 1))
        results = self.results(jobs, RunFolder(place, [self.folder / "jobs" / job.name for job in jobs]))
        progress = not self.rank.launched  # progress bars of several processes would overwrite each other
        return compose_transfer(first.options, settings, place, results, self.request, progress, read_clips)

    def is_begun(self, batch: Batch) -> bool:
        """Return whether a batch has a checkpoint."""
        return checkpoint_of(self.folder_of(batch)).exists()

    def folder_of(self, batch: Batch) -> Path:
        """Return the folder of a batch's checkpoints and logs."""
        return self.folder / "batches" / batch.key

    def run(self, batch: Batch) -> None:
        """Run a batch, from its checkpoint if it has one.

        Raises:
            RuntimeError: If its checkpoint was written on a device where its settings have another meaning.
        """
        folder = self.folder_of(batch)
        remove_unfinished(folder)
        cli = self._compose(batch.jobs, folder, read_clips=True)
        config = cli.config_text()
        if self.is_begun(batch):
            _refuse_another_device(folder, config)
        self.kept.lend(cli, self.prompts.get(batch.jobs[0].backbone, []))
        for path in (folder, *(self.folder / "jobs" / job.name for job in batch.jobs)):
            write_text(path / "config.yaml", config)
        fit(cli, folder)
        for job in batch.jobs:
            (self.folder / "jobs" / job.name / FAILED).unlink(missing_ok=True)
        print(f"process {self.rank.number}: {', '.join(job.name for job in batch.jobs)} done", flush=True)


def _refuse_another_device(folder: Path, config: str) -> None:
    """Raise ``RuntimeError`` if a batch was begun on a device where ``dtype: auto`` is another precision."""
    found = differences(identity_of(read_config(folder / "config.yaml")), identity_of(yaml.safe_load(config)))
    if found:
        raise RuntimeError(
            f"{folder} was begun with other settings ({cut_list(found)}); resume on such a device, or delete it"
        )
