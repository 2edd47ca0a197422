"""Write the results of a transfer: videos, flow pictures and measures."""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from safetensors.torch import save_file
from torch import Tensor

from fastvmt_pl.backbones import Backbone
from fastvmt_pl.callbacks.costs import Costs
from fastvmt_pl.callbacks.gradient_cache import GradientCache, JobState
from fastvmt_pl.callbacks.trainer_parts import datamodule_of, find_callback
from fastvmt_pl.clips.video_writing import enlarge, side_by_side, to_frames, write_picture, write_video
from fastvmt_pl.errors import UserError
from fastvmt_pl.files.atomic import write_text, written_whole
from fastvmt_pl.method.measuring import attention_flow_error, motion_of, motion_picture
from fastvmt_pl.method.motion_transfer import MotionTransfer
from fastvmt_pl.objectives import MotionTarget
from fastvmt_pl.regions.region_picture import region_picture

METRICS = "metrics.json"
"""File of a finished run; written last."""


class RunFolder(Callback):
    """Writes a transfer's results to a folder at its end, ``metrics.json`` last.

    For one job: ``output.mp4``, ``reference.mp4`` (the clip as it was read), ``baseline.mp4``, ``comparison.mp4`` (all
    three), ``flow_reference.png``, ``flow_output.png`` and ``latents.safetensors``; with an image or a region also
    ``image.png`` or ``region.png``. For several jobs: the same in a sub-folder ``000``, ``001`` and so on for each job,
    or in the job's own folder.

    Args:
        folder: Output folder, which also holds the logs; ``None`` is the folder of the trainer's logs.
        job_folders: Own folders of the jobs, each of which then looks like a run; finished ones are not changed.

    Raises:
        UserError: If the folder holds a finished run.

    Example:
        .. code-block:: yaml

            trainer:
              callbacks:
                - class_path: fastvmt_pl.callbacks.RunFolder
                  init_args:
                    folder: runs/my-run
    """

    def __init__(self, folder: Path | None = None, job_folders: Sequence[Path] | None = None) -> None:
        self.folder = None if folder is None else Path(folder)
        self.job_folders = job_folders
        self._refuse_finished()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a folder in which another run has finished since."""
        self.folder = self.folder or Path(trainer.log_dir or trainer.default_root_dir)
        self._refuse_finished()

    def _refuse_finished(self) -> None:
        if self.folder is not None and (self.folder / METRICS).exists():
            raise UserError(f"{self.folder} holds a finished run; choose another output folder, or delete this one")

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write everything, if the module has a result."""
        assert isinstance(pl_module, MotionTransfer)
        result, data, backbone = pl_module.result, datamodule_of(trainer), pl_module.backbone
        if result is None or self.folder is None:
            return
        costs = _costs(trainer, len(data.jobs.prompts))  # first: the clock may still run
        read = {id(clip): to_frames(clip.to_video(data.size))[0] for clip in data.clips}  # one clip may serve many jobs
        reference = [read[id(clip)] for clip in data.clips]
        settings = data.motion
        whole = motion_of(backbone, data.jobs.reference, settings)
        numbers = range(len(data.jobs.prompts))
        reference_flow = MotionTarget.stack([data.regions.carry(whole.rows([number]), number) for number in numbers])
        output_flow = motion_of(backbone, result.latents, settings)
        baseline = pl_module.baseline_latents
        baseline_flow = None if baseline is None else motion_of(backbone, baseline, settings)
        output_errors = attention_flow_error(output_flow, reference_flow)
        baseline_errors = None if baseline_flow is None else attention_flow_error(baseline_flow, reference_flow)
        jobs, num_jobs = [], len(data.jobs.prompts)
        numbered = [self.folder] if num_jobs == 1 else [self.folder / f"{number:03d}" for number in range(num_jobs)]
        for number, folder in enumerate(self.job_folders or numbered):
            job = {
                "prompt": data.jobs.prompts[number],
                "seed": data.jobs.seeds[number],
                "clip": data.clips[number].name,
                **_image_and_region(data, number),
                **_speed(data, number),
                "attention_flow_error": round(float(output_errors[number]), 4),
            }
            if baseline_errors is not None:
                job["baseline_attention_flow_error"] = round(float(baseline_errors[number]), 4)
            jobs.append({**job, **_gradients(trainer, pl_module, number), **_step_cache(pl_module), **costs})
            if (folder / METRICS).exists():  # written by a batch that was killed while writing
                continue
            videos = {"reference": reference[number]}
            if result.baseline is not None:
                videos["baseline"] = result.baseline[number]
            videos["output"] = result.frames[number]
            for name, frames in {**videos, "comparison": side_by_side(list(videos.values()))}.items():
                rate = data.clips[number].fps if name == "reference" else data.output_fps or data.clips[number].fps
                write_video(folder / f"{name}.mp4", enlarge(frames), rate)
            if data.jobs.images is not None:
                write_picture(folder / "image.png", to_frames(data.jobs.images[number, None])[0][0])
            carried = data.regions.of_job(number)
            if carried is not None:
                write_picture(folder / "region.png", region_picture(carried[0], data.clips[number].frames))
            write_picture(folder / "flow_reference.png", motion_picture(reference_flow, number, reference[number]))
            write_picture(folder / "flow_output.png", motion_picture(output_flow, number, result.frames[number]))
            with written_whole(folder / "latents.safetensors") as path:
                save_file({"latents": result.latents[number].contiguous()}, path)
            if self.job_folders is not None:
                _write_metrics(folder, backbone, jobs[-1:], logs=self.folder)
        if self.job_folders is None:
            _write_metrics(self.folder, backbone, jobs, logs=self.folder)


def _write_metrics(folder: Path, backbone: Backbone, jobs: list[dict[str, Any]], logs: Path) -> None:
    metrics = {
        "model": {"name": backbone.name, "source": backbone.source, "licence": backbone.licence},
        "logs": os.path.relpath(logs, folder),
        "jobs": jobs,
    }
    write_text(folder / METRICS, json.dumps(metrics, indent=2) + "\n")


def _image_and_region(data: Any, number: int) -> dict[str, Any]:
    """Return what a job was given besides prompt and clip: image, region and place."""
    found: dict[str, Any] = {}
    if data.images is not None:
        found["image"] = data.image_names[number % len(data.image_names)]
    carried = data.regions.of_job(number)
    if carried is not None:
        given, placement = data.regions.given, carried[1]
        found |= {"region": "masks" if isinstance(given, Tensor) else given, "region_of": data.regions.region_of}
        found["place"] = None if placement is None else {"scale": placement.scale, "offset": list(placement.offset)}
    return found


def _speed(data: Any, number: int) -> dict[str, float]:
    """Return frame rate and duration in seconds of the new video, and how fast its motion is against the clip's."""
    read = data.clips[number].fps
    rate = data.output_fps or read
    return {"fps": round(rate, 3), "duration": round(data.num_frames / rate, 3), "speed": round(rate / read, 3)}


def _costs(trainer: Trainer, num_jobs: int) -> dict[str, float | None]:
    """Return a job's share of the measured time and memory; empty without :class:`Costs`."""
    costs = find_callback(trainer, Costs)
    if costs is None:
        return {}
    peak = costs.peak_bytes
    return {
        "seconds": round(costs.seconds / num_jobs, 3),
        "gradient_peak_mib": None if peak is None else round(peak / 2**20 / num_jobs, 1),
    }


def _step_cache(module: MotionTransfer) -> dict[str, Any]:
    """Return the step cache, and the share of the passes with it that ran all blocks; empty without one."""
    if module.step_cache is None or module.cached_passes is None:
        return {}
    whole, passes = module.cached_passes
    return {"step_cache": module.step_cache.method, "step_cache_whole": round(whole / max(1, passes), 3)}


def _gradients(trainer: Trainer, module: MotionTransfer, number: int) -> dict[str, int]:
    """Return the numbers of a job's computed and reused gradients."""
    cache = find_callback(trainer, GradientCache)
    if cache is None:
        return {"gradients_computed": module.num_guided_steps * module.num_inner_steps, "gradients_reused": 0}
    states = cache.jobs or [JobState()] * (number + 1)  # without a guided step there are none
    return {"gradients_computed": states[number].num_computed, "gradients_reused": states[number].num_reused}
