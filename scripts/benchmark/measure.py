"""Time sides in turn, take the peak of allocated memory, and print Markdown."""

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import diffusers
import lightning
import torch

MIB = 2**20


def now(device: str) -> float:
    """Return the time in seconds, once the device has finished its work."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
    return time.perf_counter()


def medians(sides: Mapping[str, Callable[[], Any]], repeats: int, device: str) -> dict[str, float]:
    """Time sides in turn (A B A B), so that a change of the machine's load meets all of them.

    Args:
        sides: What to time, by name.
        repeats: Rounds that count, after one that does not.
        device: Where the sides compute.

    Returns:
        Each side's median in seconds.
    """
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(repeats + 1):
        for name, run in sides.items():
            begun = now(device)
            run()
            times[name].append(now(device) - begun)
    return {name: median(values[1:]) for name, values in times.items()}


def in_own_process(function: Callable[..., Any], *args: Any) -> Any:
    """Call a function in a fresh process, whose peak of resident memory is then its own."""
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        return pool.submit(function, *args).result()


def hardware(device: str) -> str:
    """Return one line that says where and when this was measured."""
    described = Path("/proc/cpuinfo")
    lines = described.read_text().splitlines() if described.exists() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    gpu = f", {torch.cuda.get_device_name(device)}" if device.startswith("cuda") else ""
    versions = ", ".join(f"{package.__name__} {package.__version__}" for package in (torch, diffusers, lightning))
    cpu = models[0] if models else platform.processor()
    return f"{cpu}{gpu}, {torch.get_num_threads()} threads, {versions}, {date.today()}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table whose first column is text and whose others are numbers."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, rule, *rows]) + "\n"
