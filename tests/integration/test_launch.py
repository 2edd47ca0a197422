"""One list in several processes, started in every way that the documentation names."""

import json
import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fastvmt_pl.cli.main import main
from fastvmt_pl.clips.video_writing import write_video
from fastvmt_pl.toy import ToyWorld

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[2]
NUM_JOBS = 6
FAST = ["--batch-size=1", "--num-steps=2", "--num-guided-steps=1", "--baseline=false", "--num-frames=5", "--size=32x32"]
SRUN = """#!/usr/bin/env bash
# Stands for SLURM's, of which it knows what a task sees.
shift 2
for task in 0 1; do
  export SLURM_PROCID=$task SLURM_LOCALID=$task SLURM_NTASKS=2 SLURM_STEP_ID=0 SLURM_JOB_NAME=test SLURM_JOB_ID=1
  "$@" & tasks[$task]=$!
done
wait "${tasks[0]}"; first=$?
wait "${tasks[1]}"; second=$?
exit $((first > second ? first : second))
"""


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    """Six jobs on three clips."""
    folder = tmp_path_factory.mktemp("jobs")
    world = ToyWorld(11, num_objects=1, camera=False, paths=("linear",))
    rows = []
    for number in range(NUM_JOBS):
        write_video(folder / f"{number % 3}.mp4", world[number % 3].frames[:9], 8.0)
        rows.append({"name": f"job{number}", "clip": f"{number % 3}.mp4", "prompt": "a red cross", "seed": number})
    (folder / "jobs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "jobs.jsonl"


def latents_of(output):
    return {path.parent.name: load_file(path)["latents"] for path in (output / "jobs").glob("*/latents.safetensors")}


def run_here(path, output):
    """Run a list in this process, with one thread, as launchers give each process; return its exit code."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return main(["transfer", "--jobs", str(path), "--output", str(output), *FAST])
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def alone(jobs, tmp_path_factory):
    """The latents of one process."""
    output = tmp_path_factory.mktemp("alone") / "run"
    assert run_here(jobs, output) == 0
    return latents_of(output)


@pytest.fixture
def started(tmp_path, program):
    """Starts scripts of scripts/launch in the folder of a test, and ends them with it."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "srun").write_text(SRUN)
    (tmp_path / "bin" / "srun").chmod(0o755)
    path = os.pathsep.join([str(tmp_path / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]])

    with ExitStack() as stack:

        def start(script, *args):
            command = ["bash", str(ROOT / "scripts" / "launch" / f"{script}.sh"), *args]
            environment = {**os.environ, "PATH": path, "ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
            return stack.enter_context(program(command, env=environment, cwd=tmp_path))

        yield start


@pytest.mark.parametrize(
    ("script", "args"),
    [
        pytest.param("torchrun", ["2"], marks=pytest.mark.slow),  # which fabric run starts
        ("fabric", ["2"]),
        pytest.param("torchrun", ["4"], marks=pytest.mark.slow),
        pytest.param("fabric", ["4"], marks=pytest.mark.slow),
        pytest.param("plain", ["2"], marks=pytest.mark.slow),
        pytest.param("srun", [], marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_every_launcher_gives_the_results_of_one_process(started, jobs, alone, tmp_path, script, args):
    process = started(script, *args, "--jobs", str(jobs), "--output", "run", *FAST)
    said = process.communicate(timeout=250)[0]
    assert process.returncode == 0, said[-3000:]
    found = latents_of(tmp_path / "run")
    assert found.keys() == alone.keys()
    assert all(torch.equal(found[name], alone[name]) for name in found)
    done = [line.split(": ")[1] for line in said.splitlines() if line.startswith("process ") and line.endswith(" done")]
    assert sorted(done) == sorted(f"job{number} done" for number in range(NUM_JOBS))  # each once
    assert len({line.split(":")[0] for line in said.splitlines() if line.endswith(" done")}) > 1  # by several


def test_a_run_that_is_preempted_leaves_with_the_code_to_requeue_it_and_goes_on(
    started, jobs, alone, wait_until, tmp_path
):
    rows = jobs.read_text().replace('"clip": "', f'"clip": "{jobs.parent}/').splitlines(keepends=True)[:4]
    (tmp_path / "jobs.jsonl").write_text("".join(rows))
    process = started("plain", "2", "--jobs", "jobs.jsonl", "--output", "run", *FAST)

    def in_the_middle_of_a_job():
        assert process.poll() is None, process.communicate()[0][-3000:]
        return list(tmp_path.glob("run/batches/*/checkpoints/last.ckpt"))

    wait_until(in_the_middle_of_a_job, "checkpoint")
    process.send_signal(signal.SIGUSR1)
    said = process.communicate(timeout=120)[0]
    assert process.returncode == 75, said[-3000:]
    assert "SIGUSR1" in said
    assert "Warning: process" not in said  # one that was asked to stop has not failed
    assert len(latents_of(tmp_path / "run")) < len(rows)
    assert run_here("jobs.jsonl", "run") == 0
    found = latents_of(tmp_path / "run")
    assert len(found) == len(rows)
    assert all(torch.equal(found[name], alone[name]) for name in found)


@pytest.mark.parametrize("path", sorted((ROOT / "scripts").glob("*/*.s*")), ids=lambda path: path.name)
def test_every_script_is_a_script(path):
    subprocess.run(["bash", "-n", str(path)], check=True)
    head, *lines = path.read_text().splitlines()
    assert head == "#!/usr/bin/env bash"
    assert lines[0].startswith("# ")  # what it is for, and how it is called
    for other in [word for line in lines for word in line.split() if word.startswith("scripts/launch/")]:
        assert (ROOT / other).exists()
