import io
import json
import tarfile
from pathlib import Path
from shutil import copytree

import pytest
import torch
import yaml
from lightning import Trainer
from PIL import Image
from safetensors.torch import load_file

from fastvmt_pl.backbones import DiffusersBackbone
from fastvmt_pl.backbones.model_folder import BUNDLED
from fastvmt_pl.cli.main import main
from fastvmt_pl.clips import Clip, read_clip
from fastvmt_pl.distillation import read_shards
from fastvmt_pl.distillation.motion_distillation import MotionDistillation
from fastvmt_pl.distillation.shard_index import read_index
from fastvmt_pl.lora import DIFFUSERS_FILE, ORIGINAL_FILE
from fastvmt_pl.runs import teacher
from fastvmt_pl.runs.composition import compose_training
from fastvmt_pl.runs.options import CONFIGS, default_prompts, read_prompts
from fastvmt_pl.runs.settings import merged, read_config
from fastvmt_pl.toy.toy_world import combinations, prompt_for

CAPTION = "a red circle on a gray background"
SIZE = ["--num-frames", "5", "--size", "32x32"]
SMALL = ["--model", "wan-tiny", *SIZE, "--teacher-config", "teacher.yaml", "--config", "training.yaml"]


@pytest.fixture(autouse=True)
def _quick_configs(tmp_path):
    teacher = yaml.safe_load((CONFIGS / "wan_tiny.yaml").read_text())
    teacher["model"] |= {"num_steps": 2, "num_guided_steps": 1, "num_inner_steps": 1}
    (tmp_path / "teacher.yaml").write_text(yaml.safe_dump(teacher))
    training = yaml.safe_load((CONFIGS / "wan_tiny_lora.yaml").read_text())
    training["data"] |= {"batch_size": 2, "batches_per_epoch": 2}
    training["trainer"] |= {"max_epochs": 2}
    (tmp_path / "training.yaml").write_text(yaml.safe_dump(training))
    (tmp_path / "prompts.txt").write_text(
        "a blue cross on a navy background\n\n a green square on a brown background\n"
    )


@pytest.fixture
def distil(clip, succeed):
    def run(*options):
        quick = ["--num-prompts", "2", "--max-flow-error", "100", "--max-leak", "1", "--prompts", "prompts.txt"]
        return succeed("distill", clip, CAPTION, *SMALL, *quick, "--output", "out", *options)

    return run


def test_a_lora_of_few_steps_is_previewed_in_as_many_without_guidance_scale(distil, refused, clip, tmp_path):
    distil("--few-steps", "2")
    config = yaml.safe_load((tmp_path / "out" / "config.yaml").read_text())
    assert [config["model"][name] for name in ("objective", "few_steps")] == ["trajectory", 2]
    card = (tmp_path / "out" / "lora" / "README.md").read_text()
    assert "num_inference_steps=2," in card
    assert "guidance_scale=1.0," in card
    assert [config["model"][name] for name in ("shift", "prompt_dropout")] == [3.0, 0.0]
    teacher = yaml.safe_load((tmp_path / "teacher.yaml").read_text())
    teacher["model"]["backbone"]["init_args"]["quantization"] = "fp8"
    (tmp_path / "fp8.yaml").write_text(yaml.safe_dump(teacher))
    words = ("--model", "wan-tiny", *SIZE, "--teacher-config", "fp8.yaml", "--config", "training.yaml")
    assert "quantization" in refused("distill", clip, CAPTION, *words, "--output", "other")
    for wrong, named in {
        ("--few-steps=0",): "few_steps",
        ("--few-steps=2", "--objective=flow_matching"): "few_steps",
        ("--few-steps=2", "--source=clip"): "--source samples",
    }.items():
        assert named in refused("distill", clip, CAPTION, *SMALL, "--output", "other", *wrong)


def test_a_clip_becomes_a_lora_that_stock_diffusers_and_sample_use(distil, succeed, refused, clip, tmp_path):
    distil()
    lora = tmp_path / "out" / "lora"
    assert {path.name for path in lora.iterdir()} == {DIFFUSERS_FILE, ORIGINAL_FILE, "README.md", "preview.mp4"}
    assert len(list((tmp_path / "out" / "previews").glob("epoch-*.mp4"))) == 2
    shards = {shard.name: shard for shard in read_index(tmp_path / "out" / "data")}
    assert (shards["clip.tar"].num_samples, shards["samples-00000.tar"].num_samples) == (1, 2)

    card = (lora / "README.md").read_text()
    assert yaml.safe_load(card.split("---")[1])["base_model"] == "wan-tiny"
    for fact in (shards["clip.tar"].sha256, DIFFUSERS_FILE, ORIGINAL_FILE, "4 x 2", "flow error"):
        assert fact in card
    code = card.split("```python\n")[1].split("```")[0]
    for old, new in (("path/to/this/folder", str(lora)), ('"cuda"', '"cpu"'), ("bfloat16", "float32")):
        code = code.replace(old, new)
    exec(code.rsplit("export_to_video(", 1)[0], found := {})  # which needs one more package
    pipeline = found["pipeline"]
    assert found["video"].shape == (5, 32, 32, 3)
    options = {"height": 32, "width": 32, "num_frames": 5, "num_inference_steps": 1, "output_type": "latent"}
    draw = {"generator": torch.Generator().manual_seed(0), **options}
    adapted = pipeline(CAPTION, **draw).frames
    pipeline.disable_lora()
    plain = pipeline(CAPTION, **{**draw, "generator": torch.Generator().manual_seed(0)}).frames
    assert not torch.equal(torch.as_tensor(adapted), torch.as_tensor(plain))

    quick = [*SIZE, "--num-steps", "2"]
    made = succeed("sample", CAPTION, "--loras", lora, "--output", "sampled", *quick)
    assert "sampled" in made.out
    assert {path.name for path in Path("sampled").iterdir()} == {".lock", "output.mp4", "config.yaml", "identity.json"}
    assert "finished run" in refused("sample", CAPTION, "--loras", lora, "--output", "sampled", *quick)
    weights = json.dumps([f"{lora}:0.5", f"{lora / ORIGINAL_FILE}:0.5"])
    succeed("sample", CAPTION, "--loras", weights, "--output", "twice", *quick)
    once, twice = (read_clip(f"{folder}/output.mp4", 5).frames.float() for folder in ("sampled", "twice"))
    assert (once - twice).abs().mean() < 1
    guided = [*SIZE, "--num-steps", "2", "--num-guided-steps", "1", "--no-baseline"]
    succeed("transfer", clip, CAPTION, "--loras", lora, "--output", "guided", *guided)
    assert f"{lora}" in Path("guided/config.yaml").read_text()


def test_a_stopped_distillation_goes_on_with_what_is_missing(distil, refused, clip, tmp_path, monkeypatch):
    fit, fits = Trainer.fit, []

    def counted(trainer, module, *args, **kwargs):
        fits.append(type(module).__name__)
        if fits.count("MotionTransfer") == 2:
            raise RuntimeError("killed")
        return fit(trainer, module, *args, **kwargs)

    monkeypatch.setattr(Trainer, "fit", counted)
    with pytest.raises(AssertionError):
        distil("--teacher-batch-size", "1")
    before = (tmp_path / "out" / "data" / "samples-00000.tar").read_bytes()
    distil("--teacher-batch-size", "1")
    assert fits == ["MotionTransfer"] * 3 + ["MotionDistillation"]
    assert (tmp_path / "out" / "data" / "samples-00000.tar").read_bytes() == before
    first = load_file(tmp_path / "out" / "lora" / DIFFUSERS_FILE)
    assert "finished run" in refused("distill", clip, CAPTION, *SMALL, "--output", "out")
    unverified = tmp_path / "out" / "lora" / "UNVERIFIED.md"
    (tmp_path / "out" / "lora" / "README.md").rename(unverified)
    distil("--teacher-batch-size", "1")  # nothing but the export is left to do
    assert not unverified.exists()
    assert fits.count("MotionTransfer") == 3
    again = load_file(tmp_path / "out" / "lora" / DIFFUSERS_FILE)
    assert all(torch.equal(again[name], weight) for name, weight in first.items())
    assert "flow error" in (tmp_path / "out" / "lora" / "README.md").read_text()


def test_samples_that_move_otherwise_are_dropped(distil, capsys, clip, tmp_path, monkeypatch):
    monkeypatch.setattr(teacher, "relative_attention_flow_error", lambda made, reference: torch.tensor([200.0, 0.5]))
    distil("--source", "samples")
    assert (tmp_path / "out" / "lora" / DIFFUSERS_FILE).exists()
    (sample,) = read_shards([tmp_path / "out" / "data" / "samples-00000.tar"], pytest.fail)
    assert (sample.seed, sample.prompt) == (1, "a green square on a brown background")
    assert read_index(tmp_path / "out" / "data")[1].num_dropped == 1
    options = ["--source", "samples", "--num-prompts", "2", "--max-flow-error", "0.1", "--prompts", "prompts.txt"]
    assert main(["distill", clip, CAPTION, *SMALL, *options, "--output", "none"]) == 2
    assert "above 0.1 and another --output" in capsys.readouterr().err


def test_samples_and_previews_may_begin_with_an_image(distil, refused, clip, tmp_path):
    Image.new("RGB", (32, 32), "red").save(tmp_path / "picture.png")
    distil("--image", "picture.png")
    assert (tmp_path / "out" / "lora" / DIFFUSERS_FILE).exists()
    backbone, data = DiffusersBackbone(), tmp_path / "out" / "data"
    (learned,) = read_shards([data / "clip.tar"], pytest.fail)
    own = backbone.embed_images(read_clip(tmp_path / clip, 5).to_video((32, 32))[:, :, :1], 5)
    given = next(iter(own.tensors))
    assert torch.equal(learned.condition[given], own.tensors[given][0])
    for sample in read_shards([data / "samples-00000.tar"], pytest.fail):
        assert torch.equal(sample.condition[given], sample.latents[:, :1])  # what was given is in the video as it is
        assert not torch.equal(sample.condition[given], learned.condition[given])
    assert "none.png" in refused("distill", clip, CAPTION, *SMALL, "--image", "none.png", "--output", "other")


def test_the_samplers_own_path_can_be_learned(distil, tmp_path):
    distil("--source", "samples", "--objective", "trajectory", "--seed", "7")
    assert (tmp_path / "out" / "lora" / DIFFUSERS_FILE).exists()
    samples = list(read_shards([tmp_path / "out" / "data" / "samples-00000.tar"], pytest.fail))
    assert [sample.seed for sample in samples] == [7, 8]
    for sample in samples:
        assert len(sample.trajectory) == len(sample.sigmas) == 3
        assert torch.equal(sample.trajectory[-1], sample.latents)
        assert not torch.equal(sample.trajectory[0], sample.trajectory[1])


def test_a_checkpoint_can_be_exported_by_itself(distil, succeed, refused, tmp_path):
    training = yaml.safe_load((tmp_path / "training.yaml").read_text())
    training["data"]["source"] = "clip"
    (tmp_path / "training.yaml").write_text(yaml.safe_dump(training))
    distil()
    assert [shard.source for shard in read_index(tmp_path / "out" / "data")] == ["clip"]
    last, config = tmp_path / "out" / "checkpoints" / "last.ckpt", tmp_path / "out" / "config.yaml"
    succeed("export", last, config, "exported")
    expected = load_file(tmp_path / "out" / "lora" / DIFFUSERS_FILE)
    found = load_file(tmp_path / "exported" / DIFFUSERS_FILE)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())
    assert "in use" in refused("export", last, config, "exported")
    assert "cannot be read" in refused("export", config, config, "other")
    assert "give that of the training" in refused("export", last, tmp_path / "prompts.txt", "other")
    card = (tmp_path / "exported" / "README.md").read_text()
    assert card == (tmp_path / "out" / "lora" / "README.md").read_text()
    assert (tmp_path / "exported" / "preview.mp4").exists()
    state = torch.load(last, weights_only=True)
    state["callbacks"]["StopAtLeak"] |= {"stopped": True, "adapter": {k: 0 * v for k, v in adapter_of(state).items()}}
    torch.save(state, tmp_path / "leaked.ckpt")
    succeed("export", tmp_path / "leaked.ckpt", config, "unleaked")  # the LoRA of before it leaked
    assert not any(weight.any() for weight in load_file(tmp_path / "unleaked" / DIFFUSERS_FILE).values())
    broken = {name: torch.full_like(weight, torch.nan) for name, weight in adapter_of(state).items()}
    state["callbacks"]["StopAtLeak"]["adapter"] = broken
    torch.save(state, tmp_path / "broken.ckpt")
    assert "unverified" in refused("export", tmp_path / "broken.ckpt", config, "unverified", code=1)
    kept = {DIFFUSERS_FILE, ORIGINAL_FILE, "UNVERIFIED.md", "preview.mp4"}
    assert {path.name for path in (tmp_path / "unverified").iterdir()} == kept
    (tmp_path / "unverified" / ".writing-killed").mkdir()
    succeed("export", last, config, "unverified")  # as after a process that was killed
    assert {path.name for path in (tmp_path / "unverified").iterdir()} == kept - {"UNVERIFIED.md"} | {"README.md"}
    fused = [None, {"exported": 1.0}, {"exported": 0.5}, {"unleaked": 1.0}]
    assert len({DiffusersBackbone(loras=loras).fingerprint() for loras in fused}) == 4
    larger = yaml.safe_load(config.read_text())
    larger["model"]["rank"] *= 2
    (tmp_path / "larger.yaml").write_text(yaml.safe_dump(larger))
    assert "larger.yaml" in refused("export", last, tmp_path / "larger.yaml", "other")
    torch.save({"state_dict": {}}, tmp_path / "no.ckpt")
    assert "holds no LoRA" in refused("export", tmp_path / "no.ckpt", config, "other")


def adapter_of(checkpoint):
    weights = checkpoint["state_dict"].items()
    return {name.removeprefix("adapter."): weight for name, weight in weights if name.startswith("adapter.")}


def pack(path, **members):
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name.replace("__", "."))
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def test_videos_of_ones_own_are_encoded_and_trained_on(succeed, refused, capsys, clip, tmp_path):
    video, caption = Path(clip).read_bytes(), CAPTION.encode()
    pack("a.tar", one__mp4=video, one__txt=caption, two__mp4=video[:900], two__txt=caption, three__mp4=video)
    pack("b.tar", one__mp4=video, one__txt=caption, two__mp4=video, two__txt=b" ")
    tars, size = ("a.tar", "b.tar"), SIZE
    said = succeed("encode", *tars, "data", *size).out
    assert "a.tar: 1 videos encoded, 2 skipped" in said
    assert "b.tar: 1 videos encoded, 1 skipped" in said
    assert read_index(tmp_path / "data")[0].origin.endswith(", float32")
    assert "three: no txt" in said
    assert "two: its caption is empty" in said
    assert succeed("encode", *tars, "data", *size).out == ""  # nothing is done twice
    assert "choose another output" in refused("encode", *tars, "data", *size[:2], "--size", "48x32")
    assert "3 frames" in refused("encode", "b.tar", "slow", *size, "--rate", "1")
    succeed("encode", "b.tar", "begun", *size, "--rate", "8")  # the first frames, at the clip's own rate
    (sample,) = read_shards([Path("begun/videos-b.tar")], pytest.fail)
    first = Clip(read_clip(clip, 17).frames[:5], 8.0, "first")
    torch.testing.assert_close(sample.latents[None], DiffusersBackbone().encode(first.to_video((32, 32))))
    args = ["--config", "training.yaml", "--data.folder", "data", "--data.source", "samples"]
    assert main(["train", *args, "--model.objective", "trajectory", "--trainer.logger", "false"]) == 2
    assert "have no trajectories" in capsys.readouterr().err
    succeed("train", *args, "--trainer.max_epochs", "1", "--trainer.logger", "false")
    assert Path("lora", DIFFUSERS_FILE).exists()
    assert Path("checkpoints/last.ckpt").exists()
    succeed("train", *args, "--trainer.max_epochs", "1", "--trainer.default_root_dir", "logged")
    folder = Path("logged/lightning_logs/version_0")
    succeed("export", folder / "checkpoints" / "last.ckpt", folder / "config.yaml", "exported")
    card = Path("exported/README.md").read_text()
    assert "2 x 2" in card
    assert "clip and then" not in card
    assert "does not exist" in refused("encode", "no.tar", "data")
    pack("bad.tar", one__mp4=b"no video", one__txt=caption)
    assert "no video can be used" in refused("encode", "bad.tar", "other", *size)


def test_a_data_folder_knows_videos_and_models_by_their_content(succeed, refused, clip, tmp_path):
    video, place = Path(clip).read_bytes(), tmp_path / "moved"
    pack("a.tar", one__mp4=video, one__txt=CAPTION.encode())
    assert "1 videos encoded" in succeed("encode", "a.tar", "data", *SIZE).out
    place.mkdir()
    Path("a.tar").rename(place / "a.tar")
    model = copytree(BUNDLED["wan-tiny"], tmp_path / "model")
    for same in ("wan-tiny", model):
        assert succeed("encode", place / "a.tar", "data", *SIZE, "--model", same).out == ""
    with (model / "transformer" / "config.json").open("a") as config:
        config.write("\n")
    assert "videos-a.tar" in refused("encode", place / "a.tar", "data", *SIZE, "--model", model)
    pack("a.tar", one__mp4=video, one__txt=b"another caption")
    assert "videos-a.tar" in refused("encode", "a.tar", "data", *SIZE)


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--num-prompts", "0"], "at least 1"),
        (["--num-prompts", "65"], "at most"),
        (["--prompts", "no.txt"], "no.txt"),
        (["--source", "dreams"], "clip"),
        (["--objective", "trajectory"], "--source samples"),
        (["--rank", "0"], "rank is 0"),
        (["--batch-size", "0"], "at least 1"),
        (["--max-leak", "2"], "0 to 1"),
        (["--size", "48x50"], "example 48"),
        (["--num-frames", "21"], "--num-frames 17"),
        (["--config", "no.yaml"], "name the model too"),
        (["--config", "no.yaml", "--model", "wan-tiny"], "no.yaml"),
        (["--model", "no-such-model"], "wan-tiny"),
    ],
)
def test_a_setting_that_cannot_be_is_refused(refused, clip, tmp_path, options, says):
    assert says in refused("distill", clip, CAPTION, "--output", "out", *options)
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["distill", "missing.mp4", CAPTION], "does not exist"),
        (["sample", " "], "say what the video is to show"),
        (["sample", CAPTION, "--loras", "missing"], "missing"),
        (["sample", CAPTION, "--size", "48x50"], "example 48"),
        (["sample", CAPTION, "--num-frames", "4"], "example 5"),
        (["train", "--config", "no.yaml"], "no.yaml"),
        (["train", "--config", str(CONFIGS / "wan_tiny_lora.yaml")], "data.folder"),
        (["train", "--config", str(CONFIGS / "wan_tiny_lora.yaml"), "--data.folder", "missing"], "fastvmt distill"),
    ],
)
def test_other_bad_input(refused, args, says):
    assert says in refused(*args)


@pytest.mark.usefixtures("no_weights")
def test_configs_of_two_models_are_refused(refused, clip, tmp_path):
    teacher_config = yaml.safe_load((tmp_path / "teacher.yaml").read_text())
    teacher_config["model"]["backbone"]["init_args"]["model"] = str(BUNDLED["wan-tiny"])
    (tmp_path / "teacher.yaml").write_text(yaml.safe_dump(teacher_config))
    options = ["--teacher-config", "teacher.yaml", "--config", "training.yaml"]
    assert "use --model for both" in refused("distill", clip, CAPTION, *options)


def test_an_empty_caption_is_refused(refused, clip):
    assert "what the clip shows" in refused("distill", clip, " ")


@pytest.mark.parametrize("path", sorted(CONFIGS.rglob("*lora.yaml")), ids=lambda path: path.name)
def test_every_shipped_config_makes_a_training(path, no_weights):
    settings = {"model.backbone.init_args.model": "wan-tiny", "data.folder": "anywhere"}
    assert isinstance(compose_training(merged(read_config(path), settings)).model, MotionDistillation)
    assert len(path.read_text().splitlines()) <= 30


def test_shipped_prompts_are_those_that_the_model_was_trained_on():
    trained_on = {prompt_for([item], background) for item, background in combinations(held_out=False)}
    assert set(read_prompts(default_prompts("wan-tiny"))) == trained_on


def test_help_names_the_commands(capsys):
    assert main(["--help"]) == 0
    said = capsys.readouterr().out
    for command in ("distill", "sample", "encode", "export", "train"):
        assert command in said
        with pytest.raises(SystemExit):
            main([command, "--help"])
    said = capsys.readouterr().out
    for option in ("--num-prompts", "--max-leak", "--loras", "--model.rank", "--data.folder"):
        assert f"{option} " in said
