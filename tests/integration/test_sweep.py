"""Sweeps: every job under every setting once, whatever stops or fails in between."""

import csv
import json
import os
import re
import signal
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from fastvmt_pl.callbacks import Costs
from fastvmt_pl.cli.main import main
from fastvmt_pl.clips.video_reader import ClipReader
from fastvmt_pl.clips.video_writing import write_video
from fastvmt_pl.evaluation.finished_runs import find_runs
from fastvmt_pl.joblists.job_runner import JobRunner
from fastvmt_pl.toy import ToyWorld

SHORT = {"model.num_steps": 2, "model.num_inner_steps": 2}
SMALL = {**SHORT, "data.num_frames": 5, "data.size": [32, 32]}
CACHE = {"class_path": "fastvmt_pl.callbacks.GradientCache", "init_args": {"interval": 2, "budget": 0.2}}
PLAN = {
    "jobs": {"num_jobs": 3, "split": "tuning"},
    "common": SHORT,
    "batch_size": 2,
    "settings": {
        "guided": {"model.num_guided_steps": 1},
        "unguided": {"model.num_guided_steps": 0},
        "adaptive": {"model.num_guided_steps": 1, "data.motion.window": None, "trainer.callbacks": [CACHE]},
    },
}
TWO = {name: PLAN["settings"][name] for name in ("guided", "unguided")}


def written(path, **changes):
    Path(path).write_text(yaml.safe_dump({**PLAN, **changes}, sort_keys=False))
    return path


def rows_of(path):
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def untimed(rows):
    return [{**row, "seconds": ""} for row in rows]


def on_a_clip(clip, settings):
    """Write an experiment of one job of five frames, and return its path."""
    jobs = [{"clip": clip, "prompt": "a red cross on a navy background"}]
    return written("plan.yaml", jobs=jobs, common=SMALL, settings=settings)


def folder_of(setting, job=0):
    (found,) = Path("out/jobs").glob(f"{setting}-*-{job:03d}")
    return found


def write_times():
    return {path.parent.name: path.stat().st_mtime_ns for path in Path("out/jobs").glob("*/metrics.json")}


def test_every_job_runs_under_every_setting_once(succeed, refused, monkeypatch):
    """On files, of which five frames are read."""
    for name, number in (("a", 0), ("b", 1)):
        write_video(Path("clips") / f"{name}.mp4", ToyWorld(50, num_objects=1)[number].frames, 8.0)
    jobs = [{"clip": "clips/a.mp4", "prompt": "a red cross on a navy background"}]
    jobs += [{"clip": "clips/b.mp4", "prompt": "a green circle on a gray background"}] * 2
    plan = written("plan.yaml", jobs=jobs, common=SMALL)
    said = succeed("sweep", plan, "out").out
    assert all(name in said for name in PLAN["settings"])
    rows = rows_of("out/results.csv")
    assert [(row["setting"], row["job"]) for row in rows] == [
        (setting, str(job)) for setting in PLAN["settings"] for job in range(3)
    ]
    assert [row["seed"] for row in rows[:3]] == ["0", "1", "2"]
    assert {row["gradients_computed"] for row in rows[:3]} == {"1"}
    assert {row["gradients_computed"] for row in rows[3:6]} == {"0"}
    assert {row["gradients_computed"] for row in rows[6:]} == {"2"}
    assert all(float(row["gradient_peak_mib"]) > 1 for row in rows[:3])
    assert all(row["local_motion_fidelity"] and row["appearance_leak"] for row in rows)
    assert Path("out/summary.md").read_text() in said
    assert len(list(Path("out/batches").iterdir())) == 6  # jobs of different clips run side by side

    listed = {"clip": str(Path("clips/a.mp4").resolve()), "prompt": "a dog", "name": "a"}
    Path("jobs.jsonl").write_text(json.dumps(listed))
    assert "sweep" in refused("transfer", "--jobs", "jobs.jsonl", "--output", "out", "--num-frames=5")
    assert not Path("out/jobs/a").exists()

    runs, problems = find_runs([Path("out")])  # as fastvmt report does
    assert problems == []
    assert len(runs) == 9
    assert all(list(run.logs.glob("logs/**/metrics.csv")) for run in runs if "unguided" not in run.folder.name)
    assert runs[0].scores == json.loads((runs[0].folder / "scores.json").read_text())

    before = write_times()
    (folder_of("unguided", 2) / "metrics.json").unlink()  # as if it had been stopped there
    fewer = {name: PLAN["settings"][name] for name in ("unguided", "guided")}
    written("plan.yaml", jobs=jobs, common=SMALL, settings=fewer)  # what has run counts, whatever else is compared
    succeed("sweep", plan, "out")
    after = write_times()
    assert [name for name in before if before[name] != after[name]] == [folder_of("unguided", 2).name]
    assert untimed(rows_of("out/results.csv")) == untimed(rows[3:6] + rows[:3])

    decoded, read = [], ClipReader.read
    monkeypatch.setattr(ClipReader, "read", lambda self, indices: (decoded.append(self.path), read(self, indices))[1])
    succeed("sweep", plan, "out")
    assert sorted(path.name for path in decoded) == ["a.mp4", "b.mp4"]  # once for all settings and jobs
    with monkeypatch.context() as patch:
        Path("out/summary.md").unlink()
        patch.setenv("RANK", "1")
        succeed("sweep", plan, "out")
        assert not Path("out/summary.md").exists()  # which the first process writes

    written("plan.yaml", jobs=[{**jobs[0], "prompt": "a blue cross"}, *jobs[1:]], common=SMALL)
    assert "prompt" in refused("sweep", plan, "out")
    written("plan.yaml", jobs=jobs, common={**SMALL, "model.shift": 2.0})
    assert "model.shift" in refused("sweep", plan, "out")
    Path("out2").mkdir()
    Path("out2/thesis.tex").touch()
    assert "out2" in refused("sweep", plan, "out2")


def test_toy_jobs_are_judged_by_their_true_paths(succeed):
    plan = written("toy.yaml", jobs={"num_jobs": 1}, settings={"guided": {"model.num_guided_steps": 1}})
    assert "path_error" in succeed("sweep", plan, "out").out
    (row,) = rows_of("out/results.csv")
    assert float(row["path_error"]) > 0
    assert 0 <= float(row["appearance"]) <= 1


@pytest.mark.processes
def test_processes_share_the_jobs_and_what_fails_is_named_and_done_once(clip, monkeypatch, capfd):
    hot = {"hot": {**TWO["guided"], "model.optimizer.init_args.lr": 1e38}}
    plan = on_a_clip(clip, {**hot, **TWO})
    monkeypatch.setattr(JobRunner, "run", lambda *args: pytest.fail("nobody else has run it"))
    assert main(["sweep", plan, "out", "--devices", "2"]) == 1
    assert [row["setting"] for row in rows_of("out/results.csv")] == ["guided", "unguided"]
    assert "unguided" in Path("out/summary.md").read_text()
    said = capfd.readouterr()
    done = re.findall(r"process [12]: (\w+)-\w+-000 done", said.out)
    assert sorted(done) == ["guided", "unguided"]  # each once
    assert folder_of("hot").name in said.err.splitlines()[-1]


def test_a_sweep_that_is_preempted_leaves_with_the_code_to_requeue_it_and_goes_on_to_the_same_results(
    clip, succeed, monkeypatch
):
    plan, original = on_a_clip(clip, TWO), Costs.on_train_batch_end
    succeed("sweep", plan, "out")
    whole, latents = rows_of("out/results.csv"), load_file(folder_of("guided") / "latents.safetensors")["latents"]
    Path("out").rename("whole")

    def preempted(*args):
        original(*args)
        os.kill(os.getpid(), signal.SIGUSR1)

    with monkeypatch.context() as patch:
        patch.setattr(Costs, "on_train_batch_end", preempted)
        assert main(["sweep", plan, "out"]) == 75
    assert not list(Path("out").rglob("metrics.json"))
    assert len(list(Path("out").rglob("last.ckpt"))) == 1  # in the middle of the first job
    succeed("sweep", plan, "out")
    ignored = {"seconds": "", "gradient_peak_mib": ""}
    assert [{**row, **ignored} for row in rows_of("out/results.csv")] == [{**row, **ignored} for row in whole]
    assert torch.equal(load_file(folder_of("guided") / "latents.safetensors")["latents"], latents)


@pytest.mark.usefixtures("no_weights")
class TestBadExperiments:
    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            ({"settings": {}}, "settings"),
            ({"settings": {"a": 3}}, "settings"),
            ({"settings": ["a"]}, "settings"),
            ({"grid": {"model.num_guided_steps": 3}}, "grid"),
            ({"settings": {"a": {"model.nothing": 1}}}, "nothing"),
            ({"settings": {"a": {"model.num_guided_steps": -1}}}, "-1"),
            ({"settings": {"good": TWO["guided"], "a bad one": {"model.num_guided_steps": -1}}}, "a bad one"),
            ({"settings": {"a": {"model.num_guided_steps": 1, "data.motion.block": 99}}}, "block"),
            ({"jobs": []}, "jobs"),
            ({"jobs": {"num_jobs": 0}}, "jobs"),
            ({"jobs": {"num_jobs": -3}}, "jobs"),
            ({"jobs": [{"clip": "missing.mp4", "prompt": "a dog"}]}, "missing.mp4"),
            ({"jobs": {"split": "training"}}, "jobs"),
            ({"compare_with": "nothing"}, "nothing"),
            ({"config": "missing.yaml"}, "missing.yaml"),
            ({"batch_size": 0}, "batch_size"),
            ({"common": {**SHORT, "data.num_frames": 5}}, "data.num_frames"),
            ({"common": {"data.seed": 5}}, "seed"),
            ({"common": {**SHORT, "trainer.precision": "bf16-mixed"}}, "bf16-mixed"),
            ({"config": "broken.yaml"}, "broken.yaml"),
            ({"config": "list.yaml"}, "list.yaml"),
            ({"settings": {0: {}}}, "0"),
            ({"unknown": 1}, "unknown"),
        ],
    )
    def test_it_is_refused_before_anything_runs_or_is_written(self, refused, changes, says):
        Path("broken.yaml").write_text("a: [")
        Path("list.yaml").write_text("- 1")
        assert says in refused("sweep", written("plan.yaml", **changes), "out")
        assert not Path("out").exists()
