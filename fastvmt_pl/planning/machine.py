"""Is this machine ready?"""

import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

import torch
import torch.distributed
from av import FFmpegError
from av.codec.codec import UnknownCodecError
from huggingface_hub.constants import HF_HUB_CACHE
from packaging.requirements import Requirement

from fastvmt_pl.backbones.precision import has_bfloat16, settled
from fastvmt_pl.clips import read_clip
from fastvmt_pl.clips.video_writing import write_video
from fastvmt_pl.errors import UserError
from fastvmt_pl.method.motion_cache import MotionCache
from fastvmt_pl.toy import ToyWorld
from fastvmt_pl.toy.toy_world import FPS

Status = Literal["ok", "warning", "failure"]
KNOWN_BAD = {"lightning": {"2.6.2", "2.6.3"}, "pytorch-lightning": {"2.6.2", "2.6.3"}}
"""Malicious releases."""
MIN_FREE = {"models": 20, "runs": 2}
"""GiB that should be free: the smallest full-size model is a download of 16 to 18."""


@dataclass(frozen=True)
class Check:
    """The result of a check.

    Attributes:
        status: Whether it passed.
        name: The subject of the check.
        detail: What was found.
        fix: What to do, if anything.
    """

    status: Status
    name: str
    detail: str
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.status:8} {self.name}: {self.detail}" + (f"; {self.fix}" if self.fix else "")


def check_machine(folder: Path) -> Iterator[Check]:
    """Look at everything that a run needs, and yield what was found about one thing after the other.

    Args:
        folder: Where runs are written.
    """
    yield from check_packages()
    yield from check_devices()
    yield from check_processes()
    yield from check_video()
    yield from check_folders(folder)
    yield from check_slurm()


def check_packages() -> Iterator[Check]:
    """Compare the installed packages with the requirements."""
    yield Check("ok", "python", sys.version.split()[0])
    for text in requires("fastvmt-pl") or []:
        requirement = Requirement(text)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        name, wanted = requirement.name, requirement.specifier
        try:
            found = version(name)
        except PackageNotFoundError:
            yield Check("failure", name, "is not installed", f"pip install '{name}{wanted}'")
            continue
        if found in KNOWN_BAD.get(name.lower(), ()):
            fix = f"rotate this machine's credentials, then pip install '{name}{wanted}'"
            yield Check("failure", name, f"{found} is a malicious release", fix)
        elif not wanted.contains(found, prereleases=True):
            yield Check("failure", name, f"{found} is not {wanted}", f"pip install '{name}{wanted}'")
        else:
            yield Check("ok", name, found)


def check_devices() -> Iterator[Check]:
    """List the devices, and measure which precision is fast."""
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(number)
            yield Check("ok", f"cuda:{number}", f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB")
        device = "cuda"
    elif torch.backends.mps.is_available():
        device = "mps"
        yield Check("ok", "mps", "Apple GPU")
    else:
        device = "cpu"
        fix = "full-size models need a GPU, and a build of torch for it; wan-tiny does without"
        yield Check("warning", "device", f"no GPU that torch {torch.__version__} can use", fix)
    yield _check_bfloat16(torch.device(device))


def _check_bfloat16(device: torch.device) -> Check:
    """Time matrix products in bfloat16 and float32, and report the value of ``dtype: auto``."""
    try:
        seconds = {dtype: _time_product(device, dtype) for dtype in (torch.bfloat16, torch.float32)}
    except RuntimeError as error:
        return Check("failure", "bfloat16", str(error), "use --dtype float32")
    share = seconds[torch.bfloat16] / seconds[torch.float32]
    has = "has instructions for it" if has_bfloat16(device) else "has no instructions for it that torch uses"
    measured = f"a matrix product takes {share:.2g} times as long as in float32"
    old_gpu = device.type == "cuda" and not has_bfloat16(device)
    fix = "if memory is short, try --dtype float16, which may overflow" if old_gpu else ""
    return Check("ok", "bfloat16", f"{device} {has}; {measured}; dtype auto is {settled('auto', device)}", fix)


def _time_product(device: torch.device, dtype: torch.dtype) -> float:
    """Return the seconds of a matrix product.

    Raises:
        RuntimeError: If it cannot be computed or is wrong.
    """
    from torch.utils.benchmark import Timer  # slow to import; other commands do not need it

    side = 256 if device.type == "cpu" else 2048
    ones = torch.ones(side, side, dtype=dtype, device=device)
    if float((ones @ ones).float().mean()) != side:
        raise RuntimeError(f"a matrix product in {dtype} is wrong")
    return Timer("ones @ ones", globals={"ones": ones}).blocked_autorange(min_run_time=0.05).median


def check_processes() -> Iterator[Check]:
    """Check communication between processes, which only distillation on several GPUs needs."""
    if not torch.distributed.is_available():
        yield Check(
            "warning", "processes", "torch was built without torch.distributed", "install another build of torch"
        )
        return
    backends = {"nccl": torch.distributed.is_nccl_available(), "gloo": torch.distributed.is_gloo_available()}
    there = ", ".join(name for name, available in backends.items() if available) or "nothing"
    wanted = "nccl" if torch.cuda.is_available() else "gloo"
    if backends[wanted]:
        yield Check("ok", "processes", there)
    else:
        yield Check(
            "warning", "processes", f"{there}, and not {wanted}", "distil on one device, or install another torch"
        )


def check_video() -> Iterator[Check]:
    """Write a small clip, read it back and compare."""
    frames = ToyWorld(0)[0].frames

    def there_and_back() -> None:
        with tempfile.TemporaryDirectory() as scratch:
            path = Path(scratch) / "clip.mp4"
            write_video(path, frames, FPS)
            read = read_clip(path, len(frames)).frames
        if read.shape != frames.shape or (read.float() - frames.float()).abs().mean() > 8:
            raise RuntimeError("a clip that was written and read back differs")

    fix = "install av again; it brings its own FFmpeg"
    yield _tried("video", "H.264 is written and read", fix, there_and_back)


def check_folders(folder: Path) -> Iterator[Check]:
    """Check that the folders for runs, models and motion can be written, and have enough space."""
    places = {"runs": folder, "models": Path(HF_HUB_CACHE)}
    try:
        places["motion cache"] = MotionCache().folder
    except UserError as error:
        yield Check("failure", "motion cache", str(error))
    for name, place in places.items():
        existing = next(path for path in (place.absolute(), *place.absolute().parents) if os.path.exists(path))
        homeless = str(place).startswith("~")
        if homeless or not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
            fix = {"models": "set HF_HOME", "motion cache": "set XDG_CACHE_HOME"}.get(name, "use another --folder")
            yield Check("failure", name, f"{place} cannot be written", fix)
            continue
        free = shutil.disk_usage(existing).free / 2**30
        scarce = free < MIN_FREE.get(name, 0)
        fix = f"make room: {MIN_FREE[name]} GiB should be free" if scarce else ""
        yield Check("warning" if scarce else "ok", name, f"{place}, {free:.0f} GiB free", fix)
        if name == "runs":
            yield _check_locks(existing)


def _check_locks(folder: Path) -> Check:
    """Check that files can be locked on this machine; locks between machines cannot be checked here."""
    fix = "put runs on a file system with locks, or mount it with flock"
    with tempfile.TemporaryFile(dir=folder) as file:
        try:  # filelock falls back to locks that remain when a process dies
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return Check("failure", "locks", f"{folder} has none ({error})", fix)
    return Check("ok", "locks", "work on this machine; several machines need flock over the network")


def check_slurm() -> Iterator[Check]:
    """Check that a SLURM job starts as many processes as it requested."""
    job, tasks = os.environ.get("SLURM_JOB_ID"), os.environ.get("SLURM_NTASKS")
    if job is None:
        yield Check("ok", "SLURM", "this is not a SLURM job")
    elif tasks is not None and int(tasks) > 1 and "SLURM_STEP_ID" not in os.environ:
        yield Check("warning", "SLURM", f"job {job} has {tasks} tasks, but this is not one of them", "start with srun")
    elif tasks is None and "SLURM_NTASKS_PER_NODE" not in os.environ:
        fix = "give sbatch --ntasks-per-node, as many as --trainer.devices"
        yield Check("warning", "SLURM", f"job {job} does not say how many tasks it has", fix)
    else:
        nodes = os.environ.get("SLURM_JOB_NUM_NODES", "1")
        yield Check("ok", "SLURM", f"job {job}, {tasks or 1} tasks on {nodes} nodes")


def _tried(name: str, detail: str, fix: str, run: Callable[[], None]) -> Check:
    try:
        run()
    except (UserError, RuntimeError, OSError, FFmpegError, UnknownCodecError) as error:
        return Check("failure", name, str(error), fix)
    return Check("ok", name, detail)
