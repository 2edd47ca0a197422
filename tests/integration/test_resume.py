"""A run goes on if what changes its result is the same, and is refused otherwise."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import yaml
from lightning import Trainer

from fastvmt_pl.backbones.model_folder import BUNDLED
from fastvmt_pl.cli.main import main
from fastvmt_pl.clips.video_writing import write_video
from fastvmt_pl.joblists.job_list import read_jobs
from fastvmt_pl.runs.identity import LATER
from fastvmt_pl.runs.options import default_config
from fastvmt_pl.toy import ToyWorld

PROMPT = "a red circle on a gray background"
SMALL = ["--num-frames=5", "--size=32x32", "--num-steps=3", "--num-guided-steps=1", "--baseline=false"]


@pytest.fixture
def begin(clip, tmp_path, monkeypatch, capsys, write_lora):
    """Begins a transfer in a folder and returns why that was refused; ``None`` if it was killed in its work."""
    shutil.copy(clip, tmp_path / "clip.mp4")
    shutil.copytree(BUNDLED["wan-tiny"], tmp_path / "model")
    write_lora(tmp_path / "lora.safetensors")
    (tmp_path / "my.yaml").write_text(default_config("wan-tiny").read_text())

    def killed(*_, **__):
        raise RuntimeError("killed")

    monkeypatch.setattr(Trainer, "fit", killed)

    def begun(*options, clip="clip.mp4", model="model", lora="lora.safetensors", config="my.yaml", output="out"):
        given = [f"--model={model}", f"--loras={lora}", f"--config={config}", f"--output={output}"]
        code = main(["transfer", str(clip), PROMPT, *SMALL, *given, *options])
        said = capsys.readouterr().err.splitlines()[-1]
        assert code == (1 if "killed" in said else 2)
        return None if code == 1 else said

    assert begun() is None
    return begun


def test_another_device_and_another_spelling_of_paths_are_the_same_run(begin, tmp_path):
    assert begin("--device=cpu") is None
    paths = {"clip": "clip.mp4", "model": "model", "lora": "lora.safetensors", "config": "my.yaml", "output": "out"}
    assert begin(**{name: tmp_path / "model" / ".." / path for name, path in paths.items()}) is None
    (tmp_path / "my.yaml").write_text("# a comment\n" + (tmp_path / "my.yaml").read_text())
    assert begin("--seed=0", "--guidance-scale=4") is None  # as they are by default
    (tmp_path / "clip.mp4").rename(tmp_path / "moved.mp4")
    assert begin(clip="moved.mp4") is None


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ("--num-steps=4", "num_steps: 3 there, 4 now"),
        ("--dtype=bfloat16", "dtype: float32 there, bfloat16 now"),
        ("--seed=5", "seed: 0 there, 5 now"),
        ("--loras=lora.safetensors:0.5", "loras"),
        ("--model=wan-tiny", None),  # of which the folder is a copy
    ],
)
def test_another_setting_is_named_with_both_values(begin, option, says):
    said = begin(option)
    assert said is None if says is None else says in said


def test_a_file_that_was_replaced_is_another_run(begin, tmp_path, write_lora):
    write_video(tmp_path / "clip.mp4", ToyWorld(12)[0].frames, 8.0)
    assert "data.clips" in begin()
    assert "data.prompts" not in begin()
    with (tmp_path / "model" / "transformer" / "diffusion_pytorch_model.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\x01")
    write_lora(tmp_path / "lora.safetensors", 2.0)
    said = begin()
    assert "init_args.model" in said
    assert "init_args.loras" in said


def test_a_folder_of_an_older_version_goes_on_if_its_settings_are_the_same(begin, tmp_path):
    (tmp_path / "out" / "identity.json").unlink()
    assert begin() is None
    (tmp_path / "out" / "identity.json").write_text("damaged")
    assert "num_steps: 3 there, 4 now" in begin("--num-steps=4")


def test_a_folder_from_before_a_setting_was_there_goes_on(begin, tmp_path):
    """All settings with a default that is neither nothing nor false have to be named as what earlier versions did."""
    path = tmp_path / "out" / "identity.json"
    written = json.loads(path.read_text())
    later = [name for name in written if name in LATER]
    assert sorted(later) == sorted(LATER)
    path.write_text(json.dumps({name: value for name, value in written.items() if name not in later}))
    assert begin() is None
    assert "guidance" in begin("--guidance=fused")


def test_a_folder_with_a_config_of_something_else_is_left_alone(begin, tmp_path):
    for number, content in enumerate(("", "a: 1", "- 1", "text", "model: 3", "trainer: {callbacks: 3}", "a: [")):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "config.yaml").write_text(content)
        assert "choose another output" in begin(output=folder)
        assert [path.name for path in folder.iterdir()] == ["config.yaml"]


def test_unusual_names_of_folders_work_to_the_end(succeed, refused, clip):
    for name in ("run:1", "-x"):
        args = ["transfer", clip, PROMPT, *SMALL, f"--output={name}"]
        succeed(*args)
        Path(name, "metrics.json").unlink()
        succeed(*args)  # reads its checkpoint
        assert Path(name, "output.mp4").exists()
        assert "finished run" in refused(*args)


class TestJobList:
    @pytest.fixture
    def folder(self, clip, tmp_path, succeed):
        """A folder with a list, of which all jobs are done."""
        folder = tmp_path / "here"
        folder.mkdir()
        shutil.copy(clip, folder / "clip.mp4")
        (folder / "jobs.jsonl").write_text(json.dumps({"name": "job", "clip": "clip.mp4", "prompt": PROMPT}))
        (folder / "my.yaml").write_text(default_config("wan-tiny").read_text())
        succeed(*self.args(folder))
        return folder

    def args(self, folder, *options):
        files = [f"--jobs={folder / 'jobs.jsonl'}", f"--config={folder / 'my.yaml'}"]
        return ["transfer", *files, "--output=out", *SMALL, *options]

    def test_a_list_that_was_moved_goes_on(self, folder, tmp_path, succeed, refused, no_weights):
        moved = folder.rename(tmp_path / "there")
        (moved / "my.yaml").write_text("# a comment\n" + (moved / "my.yaml").read_text())
        assert "1 done" in succeed(*self.args(moved, "--device=cpu")).out
        said = refused(*self.args(moved, "--guidance-scale=2"))
        assert "guidance_scale: 4.0 there, 2.0 now" in said
        write_video(moved / "clip.mp4", ToyWorld(12)[0].frames, 8.0)
        assert "data.clips" in refused(*self.args(moved))

    def test_a_folder_that_cannot_be_read_is_one_refusal(self, folder, refused):
        place = Path("out/jobs/job")
        (place / "identity.json").unlink()
        (place / "job.yaml").write_text("nothing of ours")
        assert "job" in refused(*self.args(folder))

    def test_a_job_of_an_older_version_goes_on_if_its_settings_are_the_same(self, folder, succeed, refused, no_weights):
        (job,), _ = read_jobs(folder / "jobs.jsonl", {}, folder)
        options = {"num_frames": 5, "size": "32x32", "steps": 3, "guided_steps": 1, "baseline": False}
        older = {"name": "job", "prompt": PROMPT, "seed": 0, "clip": str(job.clip), "options": options, "settings": {}}
        older["config"] = hashlib.sha256((folder / "my.yaml").read_bytes()).hexdigest()
        place = Path("out/jobs/job")
        (place / "identity.json").unlink()
        (place / "job.yaml").write_text(yaml.safe_dump(older))
        assert "1 done" in succeed(*self.args(folder)).out
        assert "guidance_scale" in refused(*self.args(folder, "--guidance-scale=2"))


@pytest.fixture
def killed(monkeypatch, capsys):
    """Runs a command that is killed in its work, unless it is refused; returns why."""

    def fail(*_, **__):
        raise RuntimeError("killed")

    monkeypatch.setattr(Trainer, "fit", fail)

    def run(*args):
        code = main([str(arg) for arg in args])
        said = capsys.readouterr().err.splitlines()[-1]
        assert code == (1 if "killed" in said else 2)
        return None if code == 1 else said

    return run


def test_a_distillation_goes_on_by_what_changes_its_lora(killed, clip, tmp_path):
    (tmp_path / "words.txt").write_text("a blue cross on a navy background\n")
    own = ["--num-frames=5", "--num-prompts=1", "--output=out"]
    args = ["distill", clip, PROMPT, *own, "--prompts=words.txt"]
    assert killed(*args) is None
    (tmp_path / "words.txt").rename(tmp_path / "moved.txt")
    same = ["distill", clip, PROMPT, *own, f"--prompts={tmp_path / 'moved.txt'}", "--device=cpu", "--model=wan-tiny"]
    assert killed(*same, "--teacher-batch-size=8", "--rank=16") is None  # as they are by default
    assert "max_flow_error: 0.7 there, 0.5 now" in killed(*same, "--max-flow-error=0.5")
    assert "model.rank: 16 there, 4 now" in killed(*same, "--rank=4")
    assert "teacher.data.seed: 0 there, 2 now" in killed(*same, "--seed=2")
    (tmp_path / "out" / "identity.json").unlink()
    older = yaml.safe_load((tmp_path / "out" / "distill.yaml").read_text())
    (tmp_path / "out" / "distill.yaml").write_text(yaml.safe_dump(older | {"teacher_batch": "None", "config": "x"}))
    assert "model.rank: 16 there, 4 now" in killed(*same, "--rank=4")
    assert killed(*same) is None


def test_a_sweep_goes_on_by_what_changes_its_results(killed, tmp_path):
    config = yaml.safe_load(default_config("wan-tiny").read_text())
    plan = {"jobs": {"num_jobs": 1}, "settings": {"guided": {"model.num_guided_steps": 1}}, "config": "my.yaml"}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    (tmp_path / "my.yaml").write_text(yaml.safe_dump(config))
    assert killed("sweep", "plan.yaml", "out") is None
    config["trainer"] |= {"accelerator": "auto", "enable_model_summary": False}
    (tmp_path / "my.yaml").write_text("# a comment\n" + yaml.safe_dump(config))
    assert killed("sweep", "plan.yaml", "out") is None
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump({**plan, "common": {"model.guidance_scale": 2}}))
    assert "model.guidance_scale: 4.0 there, 2 now" in killed("sweep", "plan.yaml", "out")


def test_a_sample_is_made_again_only_as_it_was(succeed, refused):
    args = ["sample", PROMPT, "--num-steps=1", "--num-frames=5", "--size=32x32", "--output=out"]
    succeed(*args)
    Path("out/output.mp4").unlink()
    assert "seed: 0 there, 1 now" in refused(*args, "--seed=1")
    succeed(*args, "--device=cpu", f"--model={BUNDLED['wan-tiny']}", f"--config={default_config('wan-tiny')}")
