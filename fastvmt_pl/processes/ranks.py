"""The rank of this process under any launcher, and how to start more processes."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_only, rank_zero_warn

from fastvmt_pl.errors import UserError
from fastvmt_pl.processes.stop_request import REQUEUE_CODE, SIGNALS, StopRequest

LAUNCHERS = {"RANK": "LOCAL_RANK", "SLURM_PROCID": "SLURM_LOCALID"}
"""Variables with a process's number (torchrun and fabric run; srun), and those with its number on its machine."""
GROUP = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "GROUP_RANK", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RUN_ID", "SLURM_NTASKS")
"""Variables from which Lightning recognises a process group."""


@dataclass(frozen=True)
class Rank:
    """The rank of a process among those that share the work.

    Attributes:
        number: Its number; number 0 waits until all work is done.
        local: Its number on its machine, which is also the number of its GPU.
        launched: Whether a launcher started it.
    """

    number: int
    local: int
    launched: bool


def read_rank(environment: Mapping[str, str] = os.environ) -> Rank:
    """Return this process's rank; the tasks of a SLURM job array count too.

    >>> read_rank({"RANK": "9", "LOCAL_RANK": "1"})
    Rank(number=9, local=1, launched=True)
    """
    tasks = int(environment.get("SLURM_NTASKS", 1)) if "SLURM_STEP_ID" in environment else 1
    names = [name for name in LAUNCHERS if tasks > 1 or not name.startswith("SLURM")]  # a batch script has number 0
    found = next((name for name in names if name in environment), None)
    number = 0 if found is None else int(environment[found])
    if environment.get("SLURM_ARRAY_TASK_ID") != environment.get("SLURM_ARRAY_TASK_MIN"):
        number += 1 + int(environment["SLURM_ARRAY_TASK_ID"])
    local = 0 if found is None else int(environment.get(LAUNCHERS[found], 0))
    return Rank(number, local, found is not None)


def num_to_start(rank: Rank, devices: int | None, config: Mapping[str, Any]) -> int:
    """Return how many processes share the work on this machine, one per device; 1 means this process alone.

    Args:
        rank: This process's rank; a process that a launcher started starts no others.
        devices: How many the user asks for; default: the number of the config's trainer.
        config: A transfer's settings.

    Raises:
        UserError: If they are fewer than one, or a launcher has already started several.
    """
    if devices is not None and devices < 1:
        raise UserError(f"devices is {devices}; use at least 1")
    if devices is not None and devices > 1 and rank.launched:
        raise UserError(f"devices is {devices}, but a launcher has started this process; leave one of them out")
    found = (config.get("trainer") or {}).get("devices")
    usual = found if isinstance(found, int) and found > 1 else 1
    return 1 if rank.launched else devices or usual


@contextmanager
def alone() -> Iterator[None]:
    """Within the block, Lightning sees a single process of rank 0, which logs and writes."""
    hidden = {name: os.environ.pop(name) for name in GROUP if name in os.environ}
    first: Any = rank_zero_only
    rank, first.rank = getattr(first, "rank", 0), 0
    try:
        yield
    finally:
        os.environ.update(hidden)
        first.rank = rank


def take_own_gpu(rank: Rank) -> None:
    """Make only one GPU visible to this process: the one with the process's number on its machine."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = [str(number) for number in range(torch.cuda.device_count())] if seen is None else seen.split(",")
    if rank.launched and len(devices) > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = devices[rank.local % len(devices)]


def start_ranks(words: Sequence[str], num_ranks: int, request: StopRequest) -> None:
    """Run a command of this package in more processes, as ranks 1 and up, and wait for them; this process is rank 0.

    A signal that asks this process to stop is passed on. The CPU's cores are divided among the processes. A warning
    names each process that fails.

    Args:
        words: The command and its options.
        num_ranks: How many processes.
        request: The request to stop this process.

    Raises:
        Preempted: If this process or one of the others was asked to stop.
        RuntimeError: If all others failed.
    """
    threads = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // num_ranks))}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "fastvmt_pl", *words],
            env={**threads, **os.environ, "RANK": str(local + 1), "LOCAL_RANK": str(local)},
        )
        for local in range(num_ranks)
    ]
    told = False
    while any(process.poll() is None for process in processes):
        if request.received is not None and not told:
            told = True
            for process in processes:
                process.send_signal(request.received)
        time.sleep(0.1)
    codes = [process.returncode for process in processes]
    if REQUEUE_CODE in codes:
        request.received = request.received or SIGNALS[0]
    request.check()
    if all(code > 0 for code in codes):  # negative codes: killed; this process can do their work
        raise RuntimeError(f"all {num_ranks} processes failed; see their output above")
    for number, code in enumerate(codes, 1):
        if code:
            rank_zero_warn(f"process {number} of {num_ranks} ended with code {code}; the others continue")
