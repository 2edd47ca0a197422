"""Which of several processes this one is, whoever started them, and how to start some."""

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
"""Variables with a process's number: of torchrun and fabric run, and of srun; and with its number on its machine."""
GROUP = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "GROUP_RANK", "LOCAL_WORLD_SIZE", "TORCHELASTIC_RUN_ID", "SLURM_NTASKS")
"""Variables by which Lightning sees a process group."""


@dataclass(frozen=True)
class Rank:
    """A process among those that work on the same thing.

    Attributes:
        number: Its number; the first, 0, stays to the end.
        local: Its number on its machine, and that of its GPU.
        launched: Whether a launcher started it.
    """

    number: int
    local: int
    launched: bool


def read_rank(environment: Mapping[str, str] = os.environ) -> Rank:
    """Return which process this is; the tasks of a SLURM job array count too.

    >>> read_rank({"RANK": "9", "LOCAL_RANK": "1"})
    Rank(number=9, local=1, launched=True)
    """
    tasks = int(environment.get("SLURM_NTASKS", 1)) if "SLURM_STEP_ID" in environment else 1
    names = [name for name in LAUNCHERS if tasks > 1 or not name.startswith("SLURM")]  # a batch script is number 0 too
    found = next((name for name in names if name in environment), None)
    number = 0 if found is None else int(environment[found])
    if environment.get("SLURM_ARRAY_TASK_ID") != environment.get("SLURM_ARRAY_TASK_MIN"):
        number += 1 + int(environment["SLURM_ARRAY_TASK_ID"])
    local = 0 if found is None else int(environment.get(LAUNCHERS[found], 0))
    return Rank(number, local, found is not None)


def num_to_start(rank: Rank, devices: int | None, config: Mapping[str, Any]) -> int:
    """Return how many processes are to work side by side on this machine, a device each; 1 is this one.

    Args:
        rank: Which process this is; one that a launcher has started starts no others.
        devices: How many the user asks for; as many devices as the config's trainer has if left out.
        config: A transfer's settings.

    Raises:
        ValueError: If they are fewer than one, or a launcher has started others.
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
    """Within the block, Lightning sees a single process, which logs and writes as the first of a group would."""
    hidden = {name: os.environ.pop(name) for name in GROUP if name in os.environ}
    first: Any = rank_zero_only
    rank, first.rank = getattr(first, "rank", 0), 0
    try:
        yield
    finally:
        os.environ.update(hidden)
        first.rank = rank


def take_own_gpu(rank: Rank) -> None:
    """Leave this process the GPU of its number on its machine, of those that it sees."""
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = [str(number) for number in range(torch.cuda.device_count())] if seen is None else seen.split(",")
    if rank.launched and len(devices) > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = devices[rank.local % len(devices)]


def start_ranks(words: Sequence[str], num_ranks: int, request: StopRequest) -> None:
    """Run a command of this package in several processes, ranks 1 and up, and wait for their end; this one is rank 0.

    A signal that asks this process to stop is handed on. A CPU's cores are shared out among the processes, which would
    otherwise take them from each other. A process that ends badly is named in a warning.

    Args:
        words: The command and its options.
        num_ranks: How many processes.
        request: Whether this process was asked to stop.

    Raises:
        Preempted: If it was, or one of them was.
        RuntimeError: If all of them failed.
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
    if all(code > 0 for code in codes):  # below are those that were killed, whose work this one can do
        raise RuntimeError(f"all {num_ranks} processes failed; what they printed says why")
    for number, code in enumerate(codes, 1):
        if code:
            rank_zero_warn(f"process {number} of {num_ranks} ended with code {code}; going on without it")
