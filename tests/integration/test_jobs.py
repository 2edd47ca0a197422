"""Lists of jobs: everything that can be done is done once, and everything else is named."""

import csv
import json
import random
import resource
import shutil
import signal
import weakref
from multiprocessing import get_context

import pytest
import torch
from diffusers import WanPipeline, WanTransformer3DModel
from safetensors.torch import load_file

from fastvmt_pl.cli.main import main
from fastvmt_pl.clips import read_clip
from fastvmt_pl.clips.video_writing import write_video
from fastvmt_pl.evaluation.finished_runs import find_runs
from fastvmt_pl.joblists.job_queue import JobQueue
from fastvmt_pl.joblists.job_runner import JobRunner
from fastvmt_pl.joblists.working import KIND
from fastvmt_pl.toy import ToyWorld

FAST = ["--num-steps=3", "--num-guided-steps=2", "--baseline=false", "--num-frames=5", "--size=32x32"]
FASTER = ["--num-steps=2", "--num-guided-steps=1"]
COLOURS = ("red", "green", "blue", "white", "yellow", "cyan", "purple", "orange")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Three clips, of which the last has other frames than the others."""
    folder = tmp_path_factory.mktemp("clips")
    world = ToyWorld(11, num_objects=1, camera=False, paths=("linear",))
    for number in range(3):
        write_video(folder / f"{number}.mp4", world[number].frames[: 9 + 4 * (number == 2)], 8.0)
    return folder


def write_list(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def good_rows(clips, count):
    return [
        {
            "name": f"job{n}",
            "clip": str(clips / f"{n % 3}.mp4"),
            "prompt": f"a {COLOURS[n % 8]} cross on a navy background",
        }
        for n in range(count)
    ]


def run(path, output, *options):
    """Run a list in this process, and return its exit code."""
    return main(["transfer", "--jobs", str(path), "--output", str(output), "--batch-size=2", *FAST, *options])


def latents_of(output):
    return {path.parent.name: load_file(path)["latents"] for path in (output / "jobs").glob("*/latents.safetensors")}


def statuses(output):
    with (output / "results.csv").open(newline="") as file:
        return {row["name"]: (row["status"], row["detail"]) for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def whole(clips, tmp_path_factory):
    """Six jobs, done in one go."""
    folder = tmp_path_factory.mktemp("whole")
    path = write_list(folder / "jobs.jsonl", good_rows(clips, 6))
    assert run(path, folder / "run") == 0
    return path, folder / "run"


class TestAListOfGoodJobs:
    def test_each_has_a_folder_like_that_of_a_single_transfer(self, whole, clips, succeed, tmp_path):
        _, output = whole
        assert sorted(latents_of(output)) == [f"job{n}" for n in range(6)]
        row = good_rows(clips, 1)[0]
        succeed("transfer", row["clip"], row["prompt"], "--output", tmp_path / "single", *FAST)
        single = {path.name for path in (tmp_path / "single").iterdir()} - {"checkpoints", "logs"}
        listed = {path.name for path in (output / "jobs" / "job0").iterdir()}
        assert listed == single | {"job.yaml"}
        alone = load_file(tmp_path / "single" / "latents.safetensors")["latents"]
        assert torch.allclose(latents_of(output)["job0"], alone, atol=1e-3)  # beside another job, it rounds differently

    def test_the_tools_for_runs_take_the_folder(self, whole, succeed):
        assert "job5" in succeed("evaluate", whole[1]).out
        (run,), problems = find_runs([whole[1] / "jobs" / "job5"])
        assert problems == []
        assert list(run.logs.glob("logs/**/metrics.csv"))

    def test_prompts_of_one_clip_run_as_a_batch_that_reads_it_once(self, whole):
        assert len(list((whole[1] / "batches").iterdir())) == 3

    def test_what_is_finished_is_not_done_again(self, whole, monkeypatch):
        path, output = whole
        monkeypatch.setattr(JobRunner, "run", lambda *_: pytest.fail("a finished job ran again"))
        assert run(path, output) == 0
        assert {status for status, _ in statuses(output).values()} == {"done"}

    def test_side_by_side_with_jobs_of_other_clips_the_results_are_the_same(self, whole, tmp_path):
        path, output = whole
        assert run(path, tmp_path / "run", "--batch-size=6", "--across-clips") == 0
        assert len(list((tmp_path / "run" / "batches").iterdir())) == 1
        ours, theirs = latents_of(tmp_path / "run"), latents_of(output)
        assert ours.keys() == theirs.keys()
        assert all(torch.allclose(ours[name], theirs[name], atol=1e-3) for name in ours)  # but for rounding

    def test_other_settings_are_refused(self, whole, capsys):
        path, output = whole
        assert run(path, output, "--guidance-scale=2") == 2
        assert "guidance_scale" in capsys.readouterr().err

    def test_a_folder_of_something_else_is_refused(self, whole, tmp_path, capsys):
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "thesis.tex").write_text("")
        assert run(whole[0], tmp_path / "mine") == 2
        assert str(tmp_path / "mine") in capsys.readouterr().err
        assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]
        assert run(whole[0], tmp_path / "mine" / "thesis.tex") == 2
        assert "thesis.tex" in capsys.readouterr().err

    @pytest.mark.parametrize("is_older", [False, True], ids=["", "of an earlier version"])
    def test_a_sweep_is_refused_its_folder(self, whole, tmp_path, clips, refused, is_older):
        output = tmp_path / "list"
        shutil.copytree(whole[1], output)
        if is_older:
            (output / KIND).unlink()
        job = {"clip": str(clips / "0.mp4"), "prompt": "a dog"}
        plan = {"jobs": [job], "settings": {"a": {}}, "common": {"data.num_frames": 5}}
        (tmp_path / "plan.yaml").write_text(json.dumps(plan))
        assert "job list" in refused("sweep", tmp_path / "plan.yaml", output)
        assert not list((output / "jobs").glob("a-*"))


def test_bad_entries_leave_the_rest_done(clips, tmp_path, capsys, monkeypatch):
    shutil.copy(clips / "0.mp4", tmp_path / "vanishing.mp4")
    whole = (clips / "0.mp4").read_bytes()
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "noise.mp4").write_bytes(random.Random(0).randbytes(4000))
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.mp4").write_text("no video")
    write_video(tmp_path / "short.mp4", ToyWorld(11)[0].frames[:3], 8.0)
    prompt = "a red cross on a navy background"
    unreadable = ("none", "empty", "noise", "cut", "text", "short")
    bad = [
        *({"name": name, "clip": f"{name}.mp4", "prompt": prompt} for name in unreadable),
        {"name": "folder", "clip": ".", "prompt": prompt},
        {"name": "job1", "clip": str(clips / "0.mp4"), "prompt": prompt},
        {"name": "mute", "clip": str(clips / "0.mp4"), "prompt": ""},
        {"name": "odd", "clip": str(clips / "0.mp4"), "prompt": prompt, "num_frames": 6},
        {"name": "far", "clip": str(clips / "0.mp4"), "prompt": prompt, "num_guided_steps": 9},
        {"name": "vanishing", "clip": "vanishing.mp4", "prompt": prompt},
        {"name": "hot", "clip": str(clips / "1.mp4"), "prompt": prompt, "model.optimizer.init_args.lr": 1e38},
        {"name": "unwritable", "clip": str(clips / "2.mp4"), "prompt": prompt},
    ]
    rows = good_rows(clips, 6)
    for number, row in enumerate(bad):
        rows.insert(2 * number, row)
    output = tmp_path / "run"
    path = write_list(tmp_path / "jobs.jsonl", rows)
    work = JobQueue.work

    def after_the_check(self, **options):
        (tmp_path / "vanishing.mp4").unlink()
        (output / "jobs" / "unwritable").write_text("in the way of the job's folder")
        work(self, **options)

    monkeypatch.setattr(JobQueue, "work", after_the_check)
    assert run(path, output, "--batch-size=10", *FASTER) == 1
    said = capsys.readouterr()
    first_done = said.out.index(" done\n")
    assert first_done < said.out.index("noise.mp4")  # no clip is read before its turn
    assert said.out.index("(mute)") < first_done  # nor is anything run before all rows are
    found = statuses(output)
    assert sorted(latents_of(output)) == sorted(row["name"] for row in rows if row not in bad)
    for row in bad:
        name = next((known for known in found if row["name"] in known and found[known][0] != "done"), None)
        assert name is not None, row
        assert found[name][1], row  # says why
        assert row["name"] in said.err.splitlines()[-1]
        assert found[name][1] in said.out
    assert {name: found[name][0] for name in ("vanishing", "hot", "unwritable", "cut")} == {
        "vanishing": "refused",
        "hot": "failed",
        "unwritable": "failed",
        "cut": "refused",
    }


def test_when_the_disk_is_full_every_job_is_named_and_done_once_there_is_room(clips, tmp_path, capsys):
    path = write_list(tmp_path / "jobs.jsonl", good_rows(clips, 2))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, before[1]))
    try:
        assert run(path, tmp_path / "run", *FASTER) == 1
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    found = statuses(tmp_path / "run")
    assert all(status == "failed" and "File too large" in detail for status, detail in found.values())
    assert run(path, tmp_path / "run", *FASTER) == 0
    assert len(latents_of(tmp_path / "run")) == len(found) == 2
    assert not list((tmp_path / "run").rglob(".writing-*"))
    assert not list((tmp_path / "run").rglob("failed.json"))


def test_a_list_can_be_looked_at_before_it_runs(clips, tmp_path, capsys):
    rows = [*good_rows(clips, 2), {"name": "long", "clip": str(clips / "0.mp4"), "prompt": "x", "num_frames": 13}]
    path = write_list(tmp_path / "jobs.jsonl", [*rows, {"name": "none", "clip": "none.mp4", "prompt": "x"}])
    assert run(path, tmp_path / "run", "--check") == 1
    said = capsys.readouterr().out.splitlines()
    assert any("long" in line and "9 frames" in line for line in said)
    assert any("none.mp4" in line for line in said)
    assert not any("job0" in line or "job1" in line for line in said)
    assert not list((tmp_path / "run" / "jobs").iterdir())


def test_each_backbone_is_read_once_and_one_is_in_memory_at_a_time(clips, tmp_path, monkeypatch):
    transformers, num_alive, texts = [], [], []
    read, read_text = WanTransformer3DModel.from_pretrained, WanPipeline.from_pretrained

    def counted(*args, **options):
        num_alive.append(sum(reference() is not None for reference in transformers))
        transformer = read(*args, **options)
        transformers.append(weakref.ref(transformer))
        return transformer

    monkeypatch.setattr(WanTransformer3DModel, "from_pretrained", counted)
    monkeypatch.setattr(
        WanPipeline, "from_pretrained", lambda *args, **options: texts.append(1) or read_text(*args, **options)
    )
    rows = [
        {**row, "model.backbone.init_args.vae_tiling": number % 2 == 0}
        for number, row in enumerate(good_rows(clips, 4))
    ]
    path = write_list(tmp_path / "jobs.jsonl", rows)
    assert run(path, tmp_path / "run", "--num-steps=2", "--num-guided-steps=0") == 0
    assert num_alive == [0, 0]
    assert len(texts) == 2
    assert len(latents_of(tmp_path / "run")) == 4


def test_what_was_in_the_way_may_be_mended(clips, tmp_path, monkeypatch):
    rows = good_rows(clips, 2)
    rows[0] |= {"clip": str(clips / "1.mp4"), "prompt": "a 🐼 cross"}
    rows.append({"name": "late", "clip": "late.mp4", "prompt": "a red cross"})
    rows.append({"name": "broken", "clip": rows[0]["clip"], "prompt": "x", "model.optimizer.init_args.lr": 1e38})
    rows.append({"name": "beside", "clip": rows[0]["clip"], "prompt": "y", "model.optimizer.init_args.lr": 1e38})
    rows.append({"name": "long", "clip": str(clips / "0.mp4"), "prompt": "x", "num_frames": 13})
    path, output = write_list(tmp_path / "jobs.jsonl", rows), tmp_path / "run"
    assert run(path, output, *FASTER) == 1
    assert [statuses(output)[name][0] for name in ("late", "broken", "beside")] == ["refused", "failed", "failed"]
    shutil.copy(clips / "0.mp4", tmp_path / "late.mp4")
    runs, run_batch = [], JobRunner.run
    monkeypatch.setattr(JobRunner, "run", lambda self, batch: (runs.append(batch), run_batch(self, batch)))
    assert run(path, output, *FASTER) == 1
    assert sorted(job.name for batch in runs for job in batch.jobs) == ["beside", "broken", "late"]  # each alone, once
    assert statuses(output)["late"][0] == "done"
    status, detail = statuses(output)["long"]
    assert status == "done"
    assert "9 frames" in detail


def test_a_damaged_checkpoint_is_put_aside(clips, tmp_path):
    path, output = write_list(tmp_path / "jobs.jsonl", good_rows(clips, 1)), tmp_path / "run"
    assert run(path, output, *FASTER) == 0
    before = latents_of(output)["job0"]
    (checkpoint,) = output.glob("batches/*/checkpoints/last.ckpt")
    (output / "jobs" / "job0" / "metrics.json").unlink()
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    with pytest.warns(UserWarning, match=r"last\.ckpt"):
        assert run(path, output, *FASTER) == 0
    assert torch.equal(latents_of(output)["job0"], before)


@pytest.fixture
def workers():
    """Starts processes that work on a list, and ends them with the test."""
    context, started = get_context("forkserver"), []
    context.set_forkserver_preload(["fastvmt_pl.cli.main"])

    def start(args):
        started.append(context.Process(target=main, args=(args,)))
        started[-1].start()
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.join()


def progress_of(output):
    """What a process that is killed leaves to others: files of results, and each checkpoint that was ever there."""
    checkpoints = {(path, path.stat().st_mtime_ns) for path in output.glob("batches/*/checkpoints/last.ckpt")}
    return checkpoints | {path for path in output.glob("jobs/*/*") if not path.name.startswith(".")}


@pytest.mark.processes
@pytest.mark.parametrize("num_kills", [6, pytest.param(20, marks=pytest.mark.slow)])
def test_a_list_whose_processes_are_killed_again_and_again_comes_out_the_same(
    whole, workers, wait_until, tmp_path, num_kills
):
    """Kills follow the progress, which ends the test on a machine of any speed: a killed process always left some."""
    path, reference = whole
    output, draw, seen = tmp_path / "run", random.Random(0), set()
    args = ["transfer", "--jobs", path, "--output", str(output), "--batch-size=2", *FAST]

    def has_grown_to(size):
        seen.update(progress_of(output))
        return len(seen) >= size

    team, num_killed = [workers(args), workers(args)], 0  # which work side by side
    while num_killed < num_kills:
        size = len(seen) + draw.randint(1, 40 // num_kills)  # of the sixty pieces of progress that there are
        wait_until(lambda size=size: has_grown_to(size), f"progress from {len(seen)} to {size}")
        for process in draw.sample(team, draw.randint(1, 2)):
            process.kill()
            process.join()
            assert process.exitcode == -signal.SIGKILL  # it was not done yet
            team.remove(process)
            num_killed += 1
        team += [workers(args) for _ in range(2 - len(team))]
    wait_until((output / "results.csv").exists, "table of results")
    for process in team:
        process.join(60)
        assert process.exitcode == 0
    ours, theirs = latents_of(output), latents_of(reference)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    for mine in (output / "jobs").iterdir():
        other = reference / "jobs" / mine.name
        assert {file.name for file in mine.iterdir()} == {file.name for file in other.iterdir()}
        ours, theirs = (read_clip(folder / "output.mp4", 5).frames.float() for folder in (mine, other))
        assert (ours - theirs).abs().mean() < 1  # the last bit of decoding depends on where tensors are in memory
