"""Part h: a list of jobs by two processes against one."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from jobs import toy_clip
from measure import table
from subject import PROMPT

NUM_JOBS = 8
SETTINGS = ["--batch-size=1", "--num-steps=10", "--baseline=false"]


def run_list(jobs: Path, output: Path, num_processes: int, *options: str) -> float:
    """Run a list with a thread a process, and return the seconds from the first start to the last end."""
    begun = time.perf_counter()
    words = ["transfer", "--jobs", str(jobs), "--output", str(output), f"--devices={num_processes}"]
    subprocess.run(
        [sys.executable, "-m", "fastvmt_pl", *words, *SETTINGS, *options],
        env={**os.environ, "OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(jobs.parent / "cache")},
        check=True,
        capture_output=True,
    )
    return time.perf_counter() - begun


def part_h(scratch: Path, repeats: int) -> str:
    """Time both in turn; starting and looking at the list, which each does alike, is timed apart."""
    clip, path = toy_clip(scratch), scratch / "jobs.jsonl"
    rows = [{"name": str(seed), "clip": str(clip), "prompt": PROMPT, "seed": seed} for seed in range(NUM_JOBS)]
    lines = [json.dumps(row) + "\n" for row in rows]
    path.write_text(lines[0])
    run_list(path, scratch / "first", 1)  # puts the clip's motion into the cache
    path.write_text("".join(lines))
    seconds: dict[int, list[float]] = {1: [], 2: []}
    start = []
    for number in range(repeats):
        start.append(run_list(path, scratch / f"look-{number}", 1, "--check"))
        for processes, found in seconds.items():
            found.append(run_list(path, scratch / f"{processes}-{number}", processes))
    times = {processes: median(found) for processes, found in seconds.items()}
    rates = {processes: 60 * NUM_JOBS / (whole - median(start)) for processes, whole in times.items()}
    rows = [
        [str(processes), f"{times[processes]:.1f}", f"{rates[processes]:.1f}", f"{rates[processes] / rates[1]:.2f}"]
        for processes in times
    ]
    head = f"h. processes, a thread each, {NUM_JOBS} jobs of 10 steps"
    return table([head, "seconds", f"jobs a minute, less {median(start):.1f} s to start", "ratio"], rows)
