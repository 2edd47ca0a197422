import csv
import json
import os
import re
import shutil
import signal
from contextlib import ExitStack, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from fastvmt_pl.cli.main import main
from fastvmt_pl.clips.video_reader import ClipReader
from fastvmt_pl.clips.video_writing import write_video
from fastvmt_pl.experiments import sweep_runs as command
from fastvmt_pl.experiments.experiment import Experiment, ToyJobs, config_of, make_jobs, read_experiment
from fastvmt_pl.files.locks import InUseError, locked_file
from fastvmt_pl.method.motion_transfer import NonFiniteError
from fastvmt_pl.processes import sharing
from fastvmt_pl.processes.sharing import Failures
from fastvmt_pl.runs.options import CONFIGS
from fastvmt_pl.toy import ToyWorld

SHORT = {"model.num_steps": 2, "model.num_inner_steps": 2}
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


def written(path, **changes):
    Path(path).write_text(yaml.safe_dump({**PLAN, **changes}, sort_keys=False))
    return path


def rows_of(path):
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_job_runs_under_every_setting_once(succeed, refused, monkeypatch):
    """On files, of which five frames are read."""
    for name, number in (("a", 0), ("b", 1)):
        write_video(Path("clips") / f"{name}.mp4", ToyWorld(50, num_objects=1)[number].frames, 8.0)
    jobs = [{"clip": "clips/a.mp4", "prompt": "a red cross on a navy background"}]
    jobs += [{"clip": "clips/b.mp4", "prompt": "a green circle on a gray background"}] * 2
    common = {**SHORT, "data.num_frames": 5}
    plan = written("plan.yaml", jobs=jobs, common=common)
    said = succeed("sweep", plan, "out").out
    assert "local_motion_fidelity less that of guided" in said
    rows = rows_of("out/results.csv")
    assert [(row["setting"], row["job"]) for row in rows] == [
        (setting, str(job)) for setting in PLAN["settings"] for job in range(3)
    ]
    assert [row["seed"] for row in rows[:3]] == ["0", "1", "2"]
    assert {row["gradients_computed"] for row in rows[:3]} == {"1"}
    assert {row["gradients_computed"] for row in rows[3:6]} == {"0"}
    assert {row["gradients_computed"] for row in rows[6:]} == {"2"}
    assert all(float(row["gradient_peak_mib"]) > 1 for row in rows[:3])
    assert Path("out/summary.md").read_text() in said
    guided, unguided = (next(Path("out/runs").glob(f"{name}-*")) for name in ("guided", "unguided"))
    assert (guided / "000-2" / "001" / "output.mp4").exists()
    assert (guided / "002-1" / "logs" / "version_0" / "metrics.csv").exists()
    (unguided / "002-1" / "scores.json").unlink()  # as if it had been stopped there
    ran = []
    run_folder = command.RunFolder
    monkeypatch.setattr(command, "RunFolder", lambda folder: (ran.append(folder), run_folder(folder))[1])
    fewer = {name: PLAN["settings"][name] for name in ("unguided", "guided")}
    written("plan.yaml", jobs=jobs, common=common, settings=fewer)  # what has run counts, whatever else is compared
    succeed("sweep", plan, "out")
    assert ran == [unguided / "002-1"]
    again = [{**row, "seconds": ""} for row in rows_of("out/results.csv")]
    assert again == [{**row, "seconds": ""} for row in rows[3:6] + rows[:3]]
    decoded, read = [], ClipReader.read
    monkeypatch.setattr(ClipReader, "read", lambda self, indices: (decoded.append(self.path), read(self, indices))[1])
    succeed("sweep", plan, "out")
    assert sorted(path.name for path in decoded) == ["a.mp4", "b.mp4"]  # once for all settings and jobs
    written("plan.yaml", jobs=jobs[:2], common=common)
    assert "other settings" in refused("sweep", plan, "out")


def test_toy_jobs_are_judged_by_their_true_paths(succeed):
    plan = written("toy.yaml", jobs={"num_jobs": 1}, settings={"guided": {"model.num_guided_steps": 1}})
    assert "| guided | " in succeed("sweep", plan, "out").out
    (row,) = rows_of("out/results.csv")
    assert float(row["path_error"]) > 0
    assert 0 <= float(row["appearance"]) <= 1


def test_a_run_that_fails_is_named_and_the_others_are_done(refused, monkeypatch):
    original = command.score_run

    def failing(folder, *args):
        if folder.parent.name.startswith("guided"):
            raise NonFiniteError("the loss is nan")
        original(folder, *args)

    monkeypatch.setattr(command, "score_run", failing)
    settings = {"guided": {"model.num_guided_steps": 1}, "unguided": {"model.num_guided_steps": 0}}
    plan = written("plan.yaml", jobs={"num_jobs": 1}, settings=settings)
    line = refused("sweep", plan, "out", code=1)
    assert "guided, jobs from 0: the loss is nan" in line
    assert [row["setting"] for row in rows_of("out/results.csv")] == ["unguided"]


TWO = {"jobs": {"num_jobs": 1}, "settings": {name: PLAN["settings"][name] for name in ("guided", "unguided")}}


def test_runs_go_on_while_others_write_the_table_and_backbones_are_not_read_in_turn(succeed, monkeypatch):
    monkeypatch.setattr(command, "UPDATE_SECONDS", 0.0)
    monkeypatch.setattr(command, "PATIENCE", 0.1)
    tiled = {"model.backbone.init_args.vae_tiling": True}
    settings = {"one": tiled, "two": {}, "three": {**tiled, "model.shift": 2.0}}
    common = {**SHORT, "model.num_guided_steps": 0}
    plan = written("plan.yaml", jobs={"num_jobs": 1}, common=common, settings=settings)
    halted, original = ExitStack(), command.score_run

    def beside_a_halted_process(*args):
        with suppress(InUseError):
            halted.enter_context(locked_file(Path("out/results.csv")))
        original(*args)

    monkeypatch.setattr(command, "score_run", beside_a_halted_process)
    with halted:
        said = succeed("sweep", plan, "out").err
    begun = re.findall(r"(\w+): jobs 0 to 0$", said, re.MULTILINE)
    assert begun == ["one", "three", "two"]
    assert [row["setting"] for row in rows_of("out/results.csv")] == ["one", "two", "three"]


@pytest.mark.processes
def test_processes_share_the_runs_and_what_they_know_of_failures(monkeypatch, capfd):
    monkeypatch.setattr(command, "score_run", lambda *args: pytest.fail("nobody else has run it"))
    hot = {"hot": {**TWO["settings"]["guided"], "model.optimizer.init_args.lr": 1e38}}
    plan = written("plan.yaml", **{**TWO, "settings": {**hot, **TWO["settings"]}})
    assert main(["sweep", plan, "out", "--devices", "2"]) == 1
    assert [row["setting"] for row in rows_of("out/results.csv")] == ["guided", "unguided"]
    assert "| unguided | " in Path("out/summary.md").read_text()
    said = capfd.readouterr().err
    begun = sorted(re.findall(r"(\w+): jobs 0 to 0$", said, re.MULTILINE))  # after a bar of another process, perhaps
    assert begun == ["guided", "hot", "unguided"]  # each once
    assert said.splitlines()[-1].startswith("fastvmt: error: 1 runs failed: hot, jobs from 0: ")


def test_a_run_that_failed_elsewhere_and_was_done_since_has_not_failed(succeed, monkeypatch):
    plan = written("plan.yaml", **TWO)
    folder = Path("out/runs") / command.folder_of("guided", TWO["settings"]["guided"]) / "000-1"
    work = command.Runs.work

    def after_others(self, to_the_end):
        Failures(self.output).record(folder, "no memory")
        assert [row["setting"] for row in self.collect()] == []
        work(self, to_the_end)
        assert self.failed() == ["guided, jobs from 0: no memory"]
        self.failures = Failures(self.output)  # as another process that begins later
        work(self, to_the_end)

    monkeypatch.setattr(command.Runs, "work", after_others)
    succeed("sweep", plan, "out")
    assert [row["setting"] for row in rows_of("out/results.csv")] == ["guided", "unguided"]


def test_what_another_process_is_at_is_left_to_it_unless_it_dies(succeed, monkeypatch):
    unguided = {"unguided": TWO["settings"]["unguided"]}
    succeed("sweep", written("plan.yaml", **{**TWO, "settings": unguided}), "out")
    shutil.rmtree("out/runs")
    plan = written("plan.yaml", **TWO)
    other = ExitStack()
    folder = Path("out/runs") / command.folder_of("guided", TWO["settings"]["guided"]) / "000-1"
    other.enter_context(locked_file(folder))
    Path("out/summary.md").unlink()
    with monkeypatch.context() as patch:
        patch.setenv("RANK", "1")
        succeed("sweep", plan, "out")
    assert [row["setting"] for row in rows_of("out/results.csv")] == ["unguided"]
    assert not Path("out/summary.md").exists()  # which the first process writes
    monkeypatch.setattr(sharing, "time", SimpleNamespace(sleep=lambda seconds: other.close()))
    assert "| guided | " in succeed("sweep", plan, "out").out
    assert [row["setting"] for row in rows_of("out/results.csv")] == ["guided", "unguided"]


def test_a_sweep_that_is_preempted_leaves_with_the_code_to_requeue_it_and_goes_on(succeed, monkeypatch):
    plan, original = written("plan.yaml", **TWO), command.score_run

    def preempted(*args):
        os.kill(os.getpid(), signal.SIGUSR1)
        original(*args)

    with monkeypatch.context() as patch:
        patch.setattr(command, "score_run", preempted)
        assert main(["sweep", plan, "out"]) == 75
    assert not list(Path("out").rglob("scores.json"))
    succeed("sweep", plan, "out")
    assert len(rows_of("out/results.csv")) == 2


@pytest.mark.usefixtures("no_weights")
class TestBadExperiments:
    @pytest.mark.parametrize(
        ("changes", "says"),
        [
            ({"settings": {}}, "has no settings"),
            ({"settings": {"a": 3}}, "how it is written"),
            ({"settings": ["a"]}, "how it is written"),
            ({"grid": {"model.num_guided_steps": 3}}, "how it is written"),
            ({"settings": {"a": {"model.nothing": 1}}}, "nothing"),
            ({"settings": {"a": {"model.num_guided_steps": -1}}}, "0 to num_steps"),
            ({"settings": {"a": {"model.num_guided_steps": 1, "data.motion.block": 99}}}, "block"),
            ({"jobs": []}, "has no jobs"),
            ({"jobs": {"num_jobs": 0}}, "has no jobs"),
            ({"jobs": {"num_jobs": -3}}, "has no jobs"),
            ({"jobs": [{"clip": "missing.mp4", "prompt": "a dog"}]}, "does not exist"),
            ({"jobs": {"split": "training"}}, "jobs"),
            ({"compare_with": "nothing"}, "use one of guided, unguided, adaptive"),
            ({"config": "missing.yaml"}, "wan_tiny.yaml"),
            ({"batch_size": 0}, "at least 1"),
            ({"common": {**SHORT, "data.num_frames": 5}}, "leave data.num_frames and data.size alone"),
            ({"common": {"data.seed": 5}}, "which are its jobs'"),
            ({"common": {**SHORT, "trainer.precision": "bf16-mixed"}}, "leave it at 32-true"),
            ({"config": "broken.yaml"}, "config broken.yaml cannot be read"),
            ({"config": "list.yaml"}, "config list.yaml is no mapping"),
            ({"settings": {0: {}}}, "put it in quotes"),
            ({"unknown": 1}, "unknown"),
        ],
    )
    def test_it_is_refused_before_anything_runs_or_is_written(self, refused, changes, says):
        Path("broken.yaml").write_text("a: [")
        Path("list.yaml").write_text("- 1")
        assert says in refused("sweep", written("plan.yaml", **changes), "out")
        assert not Path("out").exists()

    def test_what_is_no_experiment_is_refused(self, refused, tmp_path):
        assert "is no file" in refused("sweep", "missing.yaml", "out")
        (tmp_path / "list.yaml").write_text("[1, 2]")
        assert "is no mapping" in refused("sweep", "list.yaml", "out")
        (tmp_path / "broken.yaml").write_text("a: [")
        assert "cannot be read" in refused("sweep", "broken.yaml", "out")


@pytest.mark.parametrize("path", sorted((CONFIGS / "experiment").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_experiment_can_be_composed(path, tmp_path):
    plan = read_experiment(path)
    assert isinstance(plan.jobs, ToyJobs)
    assert plan.jobs.num_jobs >= 32
    plan.jobs.num_jobs = 1
    jobs = make_jobs(plan, path, tmp_path)
    for overrides in plan.all_settings.values():
        command.compose_run(plan, config_of(plan, path), jobs, overrides, range(1), read_clips=False)


def test_a_grid_is_every_combination():
    plan = Experiment(ToyJobs(1), grid={"a.b": [1, None], "c": ["x"]}, settings={"plain": {}})
    assert plan.all_settings == {
        "plain": {},
        'b 1, c "x"': {"a.b": 1, "c": "x"},
        'b null, c "x"': {"a.b": None, "c": "x"},
    }
    assert plan.reference == "plain"
    assert json.dumps(plan.all_settings)
