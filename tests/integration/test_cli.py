import json
import re
import shutil
import warnings
from pathlib import Path

import av
import numpy as np
import pytest
import torch
import yaml
from filelock import FileLock
from lightning import Trainer

from fastvmt_pl import configs
from fastvmt_pl.backbones import DiffusersBackbone
from fastvmt_pl.backbones.model_folder import BUNDLED
from fastvmt_pl.callbacks import GradientCache
from fastvmt_pl.cli.main import main
from fastvmt_pl.clips import read_clip
from fastvmt_pl.clips.video_writing import enlarge, write_video
from fastvmt_pl.datamodules import MotionDataModule
from fastvmt_pl.errors import UserError
from fastvmt_pl.method.motion_transfer import MotionTransfer
from fastvmt_pl.objectives import MotionFlowLoss
from fastvmt_pl.runs.composition import compose
from fastvmt_pl.runs.options import CONFIGS, default_config, default_lora_config, default_prompts
from fastvmt_pl.runs.settings import merged, read_config
from fastvmt_pl.toy import ToyWorld

PROMPT = "a red circle on a gray background"
FEW = ["--num-frames", "5", "--num-steps", "3", "--num-guided-steps", "1"]
SMALL = [*FEW, "--size", "32x32"]
RESULTS = {
    "output.mp4",
    "baseline.mp4",
    "reference.mp4",
    "comparison.mp4",
    "flow_reference.png",
    "flow_output.png",
    "latents.safetensors",
    "metrics.json",
    "config.yaml",
}


def decoded(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return float(stream.average_rate), np.stack([f.to_ndarray(format="rgb24") for f in container.decode(stream)])


def changed_model(tmp_path, change):
    folder = tmp_path / "model"
    shutil.copytree(BUNDLED["wan-tiny"], folder)
    change(folder)
    return folder


# Bad input


def test_a_command_is_needed_and_known(refused, capsys):
    assert (
        "use transfer, distill, sample, encode, export, evaluate, sweep, report, plan, doctor, cache, fit, train"
        in refused("transform")
    )
    assert main([]) == 0
    assert "transfer" in capsys.readouterr().out


@pytest.mark.usefixtures("no_weights")
class TestBadClips:
    @pytest.fixture
    def clips(self, tmp_path, clip):
        world = ToyWorld(11)[0].frames
        write_video(tmp_path / "one.mp4", world[:1], 8.0)
        write_video(tmp_path / "short.mp4", world[:10], 8.0)
        (tmp_path / "empty.mp4").touch()
        (tmp_path / "text.mp4").write_text("I am no video\n" * 100)
        with open(clip, "rb") as whole:
            content = whole.read()
        (tmp_path / "cut.mp4").write_bytes(content[: len(content) // 2])
        (tmp_path / "folder.mp4").mkdir()
        return tmp_path

    @pytest.mark.parametrize(
        ("name", "says"),
        [
            ("missing.mp4", "does not exist"),
            ("empty.mp4", "empty"),
            ("folder.mp4", "folder"),
            ("text.mp4", "video file"),
            ("cut.mp4", "cut short|whole video"),
            ("one.mp4", "has 1 frame"),
            ("short.mp4", "--num-frames 9"),
        ],
    )
    def test_it_is_refused_by_name_and_leaves_no_folder(self, refused, clips, name, says):
        line = refused("transfer", clips / name, PROMPT, "--output", "out")
        assert name in line
        assert any(word in line for word in says.split("|"))
        assert not (clips / "out").exists()

    def test_the_number_of_frames_that_is_named_is_accepted(self, refused, clips):
        refused("transfer", clips / "short.mp4", PROMPT, "--output", "out")
        # the clip is accepted now, and only the weights are missing
        with pytest.raises(pytest.fail.Exception, match="weights were read"):
            main(["transfer", str(clips / "short.mp4"), PROMPT, "--output", "out", "--num-frames", "9"])


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--size", "48"], "such as 480x832"),
        (["--size", "47x48"], "example 48"),
        (["--size", "48x50"], "example 48"),
        (["--size", "0x48"], "example 16"),
        (["--num-frames", "16"], "example 17"),
        (["--num-frames", "1"], "example 5"),
        (["--num-frames", "-3"], "example 5"),
        (["--num-frames", "21"], "--num-frames 17"),
        (["--num-steps", "0"], "at least 1"),
        (["--num-steps", "-1"], "at least 1"),
        (["--num-steps", "many"], "int"),
        (["--num-guided-steps", "-1"], "0 to num_steps"),
        (["--num-guided-steps", "31"], "0 to num_steps"),
        (["--strength", "0"], "above 0"),
        (["--strength", "1.5"], "above 0"),
        (["--guidance-scale", "-1"], "1 (off) or more"),
        (["--dtype", "int8"], "bfloat16"),
        (["--device", "toaster"], "cuda:1"),
        (["--device", "cuda:x"], "cuda:1"),
        (["--model", "no-such-model"], "wan-tiny"),
        (["--model", "some-org/no-such-model"], "wan-tiny"),
        (["--config", "no.yaml"], "no.yaml"),
        (["--colour", "red"], "--colour"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(refused, clip, tmp_path, options, says):
    assert says in refused("transfer", clip, PROMPT, *options)
    assert not (tmp_path / "runs").exists()


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"model": {"num_stepz": 3}}, "num_stepz"),
        ({"model": {"num_inner_steps": 0}}, "at least 1"),
        ({"model": {"losses": [{"class_path": "fastvmt_pl.metrics.NoLoss"}]}}, "NoLoss"),
        ({"model": {"optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": -1.0}}}}, "learning rate"),
        ({"data": {"motion": {"block": 6}}}, "blocks 0 to 5"),
        ({"data": {"motion": {"block": -1}}}, "counted from 0"),
        ({"data": {"motion": {"window": 0}}}, "at least 1"),
        ({"data": {"motion": {"window": -7}}}, "at least 1"),
        ({"data": {"motion": {"tile": [0, 4]}}}, "at least 1"),
        ({"data": {"motion": {"span": 1}}}, "2 or more"),
        ({"data": {"motion": {"span": -4}}}, "2 or more"),
        ({"data": {"motion": {"temperature": 0}}}, "positive"),
        ({"data": {"extraction_batch": 0}}, "at least 1"),
        ({"data": {"reference_timestep": 2000}}, "0 to 1000"),
        ({"data": {"start": 1.5}}, "--num-frames 5"),
        ({"data": {"start": 2.0, "end": 1.0}}, "start < end"),
        ({"data": {"stride": 0}}, "stride"),
        ({"trainer": {"callbacks": [{"class_path": "GradientCache", "init_args": {"interval": 0}}]}}, "1 (no"),
    ],
)
def test_a_config_that_cannot_be_is_refused(refused, clip, tmp_path, settings, says):
    config = yaml.safe_load(default_config("wan-tiny").read_text())
    for part, values in settings.items():
        for name, value in values.items():
            if name == "motion":
                config[part][name] |= value
            else:
                config[part][name] = value
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert says in refused("transfer", clip, PROMPT, "--config", "config.yaml")
    assert not (tmp_path / "runs").exists()


@pytest.mark.usefixtures("no_weights")
class TestOtherBadInput:
    @pytest.mark.parametrize("prompt", ["", "  "])
    def test_an_empty_prompt(self, refused, clip, prompt):
        assert "say what the video is to show" in refused("transfer", clip, prompt)

    def test_missing_arguments(self, refused, clip):
        assert "clip, prompt" in refused("transfer")
        assert "prompt" in refused("transfer", clip)

    def test_a_config_that_is_no_yaml(self, refused, clip, tmp_path):
        (tmp_path / "bad.yaml").write_text("model: [")
        refused("transfer", clip, PROMPT, "--config", "bad.yaml")

    def test_a_model_folder_without_safetensors(self, refused, clip, tmp_path):
        def change(folder):
            for path in (folder / "transformer").glob("*.safetensors"):
                path.rename(path.with_suffix(".bin"))

        assert "safetensors" in refused("transfer", clip, PROMPT, "--model", changed_model(tmp_path, change))

    def test_a_model_folder_of_an_unsupported_class(self, refused, clip, tmp_path):
        def change(folder):
            index = json.loads((folder / "model_index.json").read_text())
            (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": "FluxPipeline"}))

        assert "FluxPipeline" in refused("transfer", clip, PROMPT, "--model", changed_model(tmp_path, change))

    def test_a_folder_that_holds_no_model(self, refused, clip, tmp_path):
        (tmp_path / "model").mkdir()
        assert "diffusers folder" in refused("transfer", clip, PROMPT, "--model", tmp_path / "model")

    def test_an_output_folder_in_use(self, refused, clip, tmp_path):
        (tmp_path / "holiday").mkdir()
        (tmp_path / "holiday" / "photo.jpg").touch()
        assert "choose another output" in refused("transfer", clip, PROMPT, "--output", "holiday")
        (tmp_path / "file").touch()
        assert "choose another output" in refused("transfer", clip, PROMPT, "--output", "file")

    def test_fit_without_what_it_needs(self, refused, clip):
        assert "data.clips" in refused("fit")
        assert "no.yaml" in refused("fit", "--config", "no.yaml")
        assert "num_stepz" in refused("fit", "--config", default_config("wan-tiny"), "--model.num_stepz", "3")
        data = ["--data.clips", json.dumps([clip]), "--data.prompts", json.dumps([PROMPT])]
        line = refused("fit", "--config", default_config("wan-tiny"), *data, "--data.size", "[48, 50]")
        assert "example 48" in line
        line = refused("fit", "--config", default_config("wan-tiny"), *data, "--trainer.fast_dev_run", "-3")
        assert "-3" in line  # of Lightning's own
        for name, value in (("clips", clip), ("prompts", PROMPT)):
            line = refused("fit", "--config", default_config("wan-tiny"), *data, f"--data.{name}", value)
            assert f"data.{name} is a list; write it as" in line

    def test_debug_shows_the_traceback(self, clip):
        with pytest.raises(ValueError, match="num_steps"):
            main(["transfer", clip, PROMPT, "--num-steps", "0", "--debug"])


def test_a_failure_at_run_time_is_told_apart(refused, clip, monkeypatch):
    original = MotionFlowLoss.per_job
    monkeypatch.setattr(MotionFlowLoss, "per_job", lambda self, *measured: original(self, *measured) * torch.nan)
    assert "guided step 1, inner step 1" in refused("transfer", clip, PROMPT, *SMALL, code=1)


@pytest.mark.parametrize("where", [(MotionDataModule, "read_clips"), (MotionTransfer, "training_step")])
def test_a_bug_is_no_mistake_of_the_users(clip, monkeypatch, where):
    def bug(self, *args):
        raise ValueError("a bug")

    monkeypatch.setattr(*where, bug)
    with pytest.raises(ValueError, match="a bug") as error:
        main(["transfer", clip, PROMPT, *SMALL])
    assert not isinstance(error.value, UserError)


# Help and configs


def test_help_names_every_command_and_option(capsys):
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    assert "transfer" in said
    assert "fit" in said
    with pytest.raises(SystemExit) as end:
        main(["transfer", "--help"])
    assert end.value.code == 0
    said = capsys.readouterr().out
    names = "model output seed num-steps num-guided-steps guidance-scale negative-prompt strength num-frames size"
    for name in [*names.split(), "device", "dtype", "loras", "no-baseline", "config"]:
        assert f"--{name}" in said
    assert "_frames" not in said.replace("NUM_FRAMES", "")
    with pytest.raises(SystemExit) as end:
        main(["fit", "--help"])
    assert end.value.code == 0
    said = capsys.readouterr().out
    for name in ("model.num_guided_steps", "model.losses", "data.clips", "data.motion", "trainer.devices"):
        assert f"--{name} " in said


SHIPPED = {path for path in CONFIGS.rglob("*.yaml") if path.parent.name != "experiment"}
TRANSFER_CONFIGS = sorted(path for path in SHIPPED if not path.stem.endswith("lora"))


@pytest.mark.parametrize("path", TRANSFER_CONFIGS, ids=lambda path: path.name)
def test_every_shipped_config_makes_a_run(path, clip, no_weights):
    settings = {"model.backbone.init_args.model": "wan-tiny", "data.clips": [clip], "data.prompts": [PROMPT]}
    settings["model.low_noise_guidance_scale"] = None  # wan-tiny has one expert, and fewer blocks
    cli = compose(merged(read_config(path), settings), check="nothing")
    assert isinstance(cli.model, MotionTransfer)
    assert cli.trainer.max_epochs == cli.model.num_guided_steps
    assert cli.trainer.num_devices == 1
    caches = [callback for callback in cli.trainer.callbacks if isinstance(callback, GradientCache)]
    assert len(caches) == (cli.model.num_inner_steps > 1)
    assert len(path.read_text().splitlines()) <= 30


def model_of(tmp_path, index=None, vae=None, **transformer):
    """A copy of wan-tiny's configs, changed."""
    folder = tmp_path / "model"
    shutil.copytree(BUNDLED["wan-tiny"], folder, ignore=shutil.ignore_patterns("*.safetensors"), dirs_exist_ok=True)
    for name, change in {"model_index": index, "vae/config": vae, "transformer/config": transformer}.items():
        path = folder / f"{name}.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | (change or {})))
    return str(folder)


WAN_1B = {"num_layers": 30, "num_attention_heads": 12, "attention_head_dim": 128, "in_channels": 16}
WAN_5B = {"num_layers": 30, "num_attention_heads": 24, "attention_head_dim": 128, "in_channels": 48}
WAN_14B = {"num_layers": 40, "num_attention_heads": 40, "attention_head_dim": 128, "in_channels": 16}


@pytest.mark.parametrize(
    ("transformer", "names"),
    [
        ({}, ("wan_tiny.yaml", "wan_tiny_lora.yaml", "wan_tiny_prompts.txt")),  # a fine-tune of wan-tiny
        (WAN_1B, ("wan2.1_1.3b.yaml", "wan2.1_lora.yaml", "prompts.txt")),
        (WAN_14B, ("wan2.1_14b.yaml", "wan2.1_lora.yaml", "prompts.txt")),
        (WAN_5B, ("wan2.2_ti2v_5b.yaml", "wan2.1_lora.yaml", "prompts.txt")),
    ],
)
def test_the_config_fits_the_architecture_of_the_model(tmp_path, transformer, names):
    model = model_of(tmp_path, **transformer)
    found = [choose(model) for choose in (default_config, default_lora_config, default_prompts)]
    assert tuple(path.name for path in found) == names
    assert all(path.is_file() for path in found)
    assert default_config("wan-tiny").name == "wan_tiny.yaml"
    assert CONFIGS.samefile(next(iter(configs.__path__)))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"num_layers": 12}, "12 layers"),
        (WAN_1B | {"num_attention_heads": 10}, "1280 wide"),
        (WAN_14B | {"index": {"boundary_ratio": 0.875}}, "transformer_2"),
        (WAN_14B | {"image_dim": 1280}, "image-to-video"),
    ],
)
def test_a_model_that_no_config_fits_is_refused_by_what_it_is(refused, clip, tmp_path, changes, says):
    model = model_of(tmp_path, **changes)
    for args in (["transfer", clip, PROMPT], ["sample", PROMPT], ["distill", clip, PROMPT]):
        line = refused(*args, "--model", model, "--output", "out")
        assert says in line
        assert model in line
    assert not (tmp_path / "out").exists()


@pytest.fixture
def begin(monkeypatch):
    """Runs a command until its trainer starts, and returns that and its module."""

    def run(*args):
        made = []

        def fit(trainer, model, *args, **kwargs):
            made.extend((trainer, model))
            raise RuntimeError("enough")

        monkeypatch.setattr(Trainer, "fit", fit)
        assert main([str(arg) for arg in args]) == 1
        return made

    return run


def test_what_the_command_line_leaves_out_is_the_configs(begin, clip, tmp_path):
    config = yaml.safe_load(default_config("wan-tiny").read_text())
    config["model"] |= {"baseline": False, "strength": 0.5, "num_steps": 30, "num_guided_steps": 6}
    config["model"]["backbone"]["init_args"]["dtype"] = "bfloat16"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    args = ["--config", "config.yaml", "--num-steps", "20", "--output", "out"]
    trainer, model = begin("transfer", clip, PROMPT, *args)
    assert (model.baseline, model.strength, model.num_steps) == (False, 0.5, 20)
    assert model.backbone.dtype == torch.bfloat16
    assert (trainer.num_devices, trainer.max_epochs) == (1, 4)  # the same share of 20 steps


# Whole runs


def test_a_step_cache_is_a_setting_and_named_in_the_results(succeed, refused, clip):
    words = ("transfer", clip, PROMPT, "--num-frames=5", "--num-steps=6", "--num-guided-steps=1", "--no-baseline")
    cache = ("--step-cache=first_block", "--step-cache-threshold=1000", "--output", "out")
    succeed(*words, *cache)
    (job,) = json.loads(Path("out/metrics.json").read_text())["jobs"]
    assert (job["step_cache"], job["step_cache_whole"]) == ("first_block", 0.2)  # 1 of 5 steps, under each prompt
    config = yaml.safe_load(Path("out/config.yaml").read_text())["model"]
    assert config["step_cache"] == {"method": "first_block", "threshold": 1000.0}
    Path("out/metrics.json").unlink()
    assert "step_cache.threshold" in refused(*words, *cache[:1], "--step-cache-threshold=0.1", *cache[2:])
    assert "step_cache" in refused(*words, "--step-cache-threshold=0.1", "--output", "other")
    assert "mag_ratios" in refused(*words, "--step-cache=mag", "--output", "other")


def test_a_transfer_writes_its_folder_once_and_goes_on_when_unfinished(succeed, refused, clip, tmp_path):
    args = ["transfer", clip, PROMPT, *FEW, "--output", "out", "--seed", "4", "--negative-prompt", "gray: [mist"]
    assert "out" in succeed(*args).out
    folder = tmp_path / "out"
    assert {path.name for path in folder.iterdir()} >= RESULTS
    metrics = json.loads((folder / "metrics.json").read_text())
    (job,) = metrics["jobs"]
    assert (job["prompt"], job["seed"], job["clip"]) == (PROMPT, 4, clip)
    assert (job["gradients_computed"], job["gradients_reused"]) == (2, 4)
    assert job["seconds"] > 0
    assert metrics["model"]["name"] == "wan-tiny"
    assert min(job["attention_flow_error"], job["baseline_attention_flow_error"]) > 0
    fps, comparison = decoded(folder / "comparison.mp4")
    assert fps == pytest.approx(8 * 4 / 16)  # five frames last as long as the clip's seventeen
    parts = comparison[:, :, :240], comparison[:, :, 250:490], comparison[:, :, 500:]
    assert comparison.shape == (5, 240, 740, 3)
    assert comparison[:, :, 242:248].min() > 240  # a white gap
    for part, name in zip(parts[1:], ("baseline", "output"), strict=True):
        found_fps, found = decoded(folder / f"{name}.mp4")
        assert found_fps == fps
        assert np.abs(part.astype(int) - found).mean() < 4
    reference = enlarge(read_clip(clip, 5).frames).numpy()
    assert np.abs(parts[0].astype(int) - reference).mean() < 6
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["model"]["negative_prompt"] == "gray: [mist"
    assert (config["data"]["num_frames"], config["trainer"]["max_epochs"]) == (5, 1)

    assert "finished run" in refused(*args)
    assert "finished run" in refused(*args, "--num-steps", "4")

    (folder / "metrics.json").unlink()
    assert "other settings" in refused(*args, "--num-steps", "4")
    latents_before = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]["latents"]
    resumed = succeed(*args)
    assert "guided step" not in resumed.err  # nothing is guided twice
    (again,) = json.loads((folder / "metrics.json").read_text())["jobs"]
    assert {**again, "seconds": None} == {**job, "seconds": None}
    latents = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]["latents"]
    assert torch.equal(latents, latents_before)


def test_the_folder_is_named_after_clip_prompt_and_seed(succeed, clip, tmp_path):
    succeed("transfer", clip, "ein roter Kreis über 赤い円", *SMALL, "--no-baseline")
    (folder,) = (tmp_path / "runs").iterdir()
    assert re.fullmatch("clip-ein-roter-kreis-über-赤い円-0-[0-9a-f]{6}", folder.name)  # it lost the capital
    assert not (folder / "baseline.mp4").exists()


@pytest.fixture
def num_decoded(monkeypatch):
    """The videos that the backbone has decoded so far."""
    videos, decode = [], DiffusersBackbone.decode
    monkeypatch.setattr(
        DiffusersBackbone, "decode", lambda self, latents: videos.extend(latents) or decode(self, latents)
    )
    return lambda: len(videos)


def test_a_transfer_decodes_its_output_and_its_baseline_alone(succeed, clip, num_decoded):
    succeed("transfer", clip, PROMPT, *SMALL, "--output", "out")
    assert num_decoded() == 2


def test_a_config_asks_for_previews(succeed, clip, tmp_path, num_decoded):
    config = yaml.safe_load(default_config("wan-tiny").read_text())
    config["trainer"]["callbacks"] = [
        *config["trainer"]["callbacks"],
        {"class_path": "fastvmt_pl.callbacks.TransferPreviews", "init_args": {"every_n_steps": 1}},
    ]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    succeed("transfer", clip, PROMPT, *SMALL, "--config", "config.yaml", "--no-baseline", "--output", "out")
    assert num_decoded() == 2  # the output, and what the one guided step predicts


def test_fit_writes_results_and_a_checkpoint_by_itself(succeed, clip):
    config = default_config("wan-tiny")
    sizes = ["--data.num-frames=5", "--data.size=[32, 32]", "--model.num_steps", "2", "--model.num-guided-steps=1"]
    data = ["--data.clips", json.dumps([clip]), "--data.prompts", json.dumps([PROMPT])]
    succeed("fit", "--config", config, *data, *sizes, "--model.num_inner_steps", "1")
    folder = Path("lightning_logs/version_0")
    assert {path.name for path in folder.iterdir()} >= RESULTS
    assert (folder / "checkpoints" / "last.ckpt").exists()
    metrics = json.loads((folder / "metrics.json").read_text())
    assert metrics["model"]["licence"] == "apache-2.0"
    assert metrics["jobs"][0]["gradients_computed"] == 1


def test_there_is_a_csv_file_beside_a_logger_of_ones_own(succeed, clip, tmp_path):
    config = yaml.safe_load(default_config("wan-tiny").read_text())
    own = {"class_path": "lightning.pytorch.loggers.TensorBoardLogger", "init_args": {"save_dir": "elsewhere"}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**config, "trainer": {**config["trainer"], "logger": own}}))
    succeed("transfer", clip, PROMPT, *SMALL, "--config", "config.yaml", "--output", "out")
    assert list(Path("elsewhere").rglob("events.*"))
    (log,) = Path("out").glob("logs/*/metrics.csv")
    assert "loss/motion_flow" in log.read_text()


@pytest.mark.parametrize(
    ("config", "options", "guided"),
    [
        ("wan_tiny.yaml", ["--num-steps", "2"], 1),
        ("wan_tiny.yaml", ["--num-steps", "3", "--num-guided-steps", "3"], 3),
        ("few.yaml", ["--num-steps", "2"], 1),  # a fifth of the steps is less than one
        ("few.yaml", ["--num-steps", "2", "--num-guided-steps", "0"], 0),
    ],
)
def test_steps_alone_keep_the_share_that_is_guided(begin, clip, tmp_path, config, options, guided):
    few = yaml.safe_load(default_config("wan-tiny").read_text())
    few["model"] |= {"num_steps": 50, "num_guided_steps": 10}
    (tmp_path / "few.yaml").write_text(yaml.safe_dump(few))
    path = tmp_path / config if config == "few.yaml" else CONFIGS / config
    quick = ["--num-frames", "5", "--no-baseline", "--config", path]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "num_guided_steps")
        begin("transfer", clip, PROMPT, *quick, "--output", "out", *options)
    assert yaml.safe_load(Path("out/config.yaml").read_text())["model"]["num_guided_steps"] == guided


def test_a_config_that_guides_nothing_is_warned_of(begin, clip, tmp_path):
    unguided = yaml.safe_load(default_config("wan-tiny").read_text())
    unguided["model"] |= {"num_steps": 3, "num_guided_steps": 0}
    (tmp_path / "unguided.yaml").write_text(yaml.safe_dump(unguided))
    args = ["--num-frames", "5", "--no-baseline", "--config", "unguided.yaml", "--num-steps", "2", "--output", "out"]
    with pytest.warns(UserWarning, match="num_guided_steps is 0"):
        begin("transfer", clip, PROMPT, *args)


def test_fit_takes_a_config(succeed, refused, clip, tmp_path):
    config = yaml.safe_load(default_config("wan-tiny").read_text())
    config["model"] |= {"num_steps": 3, "num_guided_steps": 1, "num_inner_steps": 2}
    config["data"] |= {"clips": [clip], "prompts": [PROMPT, "a blue cross on a navy background"]}
    config["data"] |= {"num_frames": 5, "size": [32, 32]}
    config["data"]["cache_dir"] = str(tmp_path / "elsewhere")
    folder = {"class_path": "fastvmt_pl.callbacks.RunFolder", "init_args": {"folder": str(tmp_path / "out")}}
    config["trainer"] |= {"callbacks": [folder], "enable_progress_bar": False, "enable_model_summary": False}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    for loss in config["model"]["losses"]:  # as earlier versions called them
        loss["class_path"] = loss["class_path"].replace("objectives", "metrics")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.warns(FutureWarning, match="MotionFlowLoss"):
        succeed("fit", "--config", "config.yaml")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"000", "001", "metrics.json"}
    assert {path.name for path in (tmp_path / "out" / "001").iterdir()} == RESULTS - {"metrics.json", "config.yaml"}
    assert list((tmp_path / "elsewhere").glob("*.safetensors"))
    assert not list((tmp_path / "cache").rglob("*.safetensors"))
    with pytest.raises(UserError, match="finished run"), pytest.warns(FutureWarning, match="WindowLoss"):
        main(["fit", "--config", "config.yaml", "--debug"])


def test_a_folder_has_room_for_one_process_at_a_time(refused, clip, tmp_path):
    (tmp_path / "out").mkdir()
    with FileLock(tmp_path / "out" / ".lock"):
        assert "another process is using out" in refused("transfer", clip, PROMPT, *SMALL, "--output", "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]
