"""Part i: how soon the first job of a long list begins and ends."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from measure import table

from fastvmt_pl.clips.video_writing import write_video
from fastvmt_pl.toy import ToyWorld

NUM_ROWS, NUM_CLIPS = 10_000, 200
SETTINGS = ["--batch-size=1", "--num-steps=10", "--num-guided-steps=2", "--baseline=false", "--device=cpu"]
PATTERNS = {"first job begins": "batches/*/config.yaml", "first job ends": "jobs/*/metrics.json"}


def write_list(folder: Path, num_rows: int, num_clips: int) -> Path:
    """Write a list of jobs on toy clips, each with a prompt and a seed of its own."""
    world = ToyWorld(11, num_objects=1, camera=False, paths=("linear",))
    for number in range(num_clips):
        write_video(folder / f"{number}.mp4", world[number].frames, 8.0)
    rows = [
        {"clip": f"{number % num_clips}.mp4", "prompt": f"a red cross, number {number}", "seed": number}
        for number in range(num_rows)
    ]
    path = folder / "jobs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def first_seconds(jobs: Path, output: Path) -> dict[str, float]:
    """Start a list, and stop it once its first job is done; return the seconds until each file of a job was there."""
    begun, found = time.perf_counter(), dict[str, float]()
    process = subprocess.Popen(
        [sys.executable, "-m", "fastvmt_pl", "transfer", "--jobs", str(jobs), "--output", str(output), *SETTINGS],
        env={**os.environ, "XDG_CACHE_HOME": str(output.parent / f"{output.name}-cache")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while len(found) < len(PATTERNS):
        if process.poll() is not None:
            raise RuntimeError(f"the list ended with code {process.returncode} before its first job did")
        for name, pattern in PATTERNS.items():
            if name not in found and next(output.glob(pattern), None) is not None:
                found[name] = time.perf_counter() - begun
        time.sleep(0.05)
    process.kill()
    process.wait()
    return found


def part_i(scratch: Path, repeats: int) -> str:
    """Time the beginning of a list from the start of the process, its imports included."""
    path = write_list(scratch, NUM_ROWS, NUM_CLIPS)
    runs = [first_seconds(path, scratch / f"start-{number}") for number in range(repeats)]
    rows = [[name, f"{median(run[name] for run in runs):.1f}"] for name in PATTERNS]
    return table([f"i. a list of {NUM_ROWS} rows on {NUM_CLIPS} clips", "seconds"], rows)
