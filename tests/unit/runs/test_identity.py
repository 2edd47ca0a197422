import shutil

import pytest
import yaml

from fastvmt_pl.backbones.model_folder import BUNDLED
from fastvmt_pl.runs.identity import differences, identity_of, identity_of_overridden, model_content
from fastvmt_pl.runs.options import CONFIGS, default_config


@pytest.fixture
def config(tmp_path):
    (tmp_path / "clip.mp4").write_bytes(b"a clip")
    config = yaml.safe_load(default_config("wan-tiny").read_text())
    config["data"] |= {"clips": [str(tmp_path / "clip.mp4")], "prompts": ["a red circle"]}
    return config


def changed(config, group, **settings):
    return {**config, group: {**config[group], **settings}}


def with_backbone(config, **arguments):
    backbone = config["model"]["backbone"]
    return changed(config, "model", backbone={**backbone, "init_args": {**backbone["init_args"], **arguments}})


@pytest.mark.parametrize(
    "change",
    [
        lambda config: changed(config, "trainer", accelerator="cuda", devices=2, num_nodes=2, strategy="ddp"),
        lambda config: changed(config, "trainer", logger=False, enable_progress_bar=False, something_new=3),
        lambda config: changed(
            config,
            "trainer",
            callbacks=[*config["trainer"]["callbacks"], {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint"}],
        ),
        lambda config: changed(config, "data", cache_dir="elsewhere", extraction_batch=1),
        lambda config: with_backbone(config, offload=True, gradient_checkpointing=True, attention_backend="flash"),
        lambda config: with_backbone(config, model=str(BUNDLED["wan-tiny"])),
        lambda config: changed(config, "model", added_by_a_newer_version=None, another=False, guidance="optimise"),
        lambda config: changed(config, "data", region_of="subject", background_weight=1.0),
        lambda config: changed(
            config,
            "data",
            motion={"class_path": "fastvmt_pl.objectives.AttentionFlow", "init_args": config["data"]["motion"]},
        ),
        lambda config: changed(
            config, "model", losses=[{**loss, "class_path": loss["class_path"].replace("metrics", "objectives")}
                                     for loss in config["model"]["losses"]]
        ),
    ],
)  # fmt: skip
def test_what_does_not_change_the_result_is_no_part_of_it(config, change):
    assert differences(identity_of(config), identity_of(change(config))) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda config: changed(config, "model", num_steps=50), "model.num_steps: 30 there, 50 now"),
        (lambda config: changed(config, "model", baseline=True), "model.baseline: unset there, true now"),
        (lambda config: changed(config, "model", negative_prompt="mist"), "model.negative_prompt:  there, mist now"),
        (lambda config: changed(config, "model", guidance="fused"), "model.guidance: unset there, fused now"),
        (lambda config: changed(config, "model", finish={"loras": {"a.safetensors": 1.0}}), "model.finish.loras"),
        (lambda config: changed(config, "data", prompts=["a dog"]), "data.prompts"),
        (lambda config: changed(config, "data", seed=3), "data.seed: unset there, 3 now"),
        (lambda config: changed(config, "trainer", callbacks=[]), "trainer.callbacks.0.init_args.interval: 3 there"),
        (lambda config: changed(config, "trainer", precision="bf16-mixed"), "trainer.precision"),
        (lambda config: with_backbone(config, dtype="bfloat16"), "init_args.dtype: unset there, bfloat16 now"),
        (lambda config: with_backbone(config, model="some-org/a-wan"), "init_args.model"),
        (lambda config: with_backbone(config, loras={"a.safetensors": 1.0}), "init_args.loras"),
    ],
)
def test_what_changes_the_result_is_named_with_both_values(config, change, says):
    assert says in " ".join(differences(identity_of(config), identity_of(change(config))))


def test_files_count_by_their_content(config, tmp_path):
    (tmp_path / "pytorch_lora_weights.safetensors").write_bytes(b"weights")
    config = with_backbone(config, loras={str(tmp_path): 0.5})
    before = identity_of(config)
    (tmp_path / "clip.mp4").rename(tmp_path / "moved.mp4")
    moved = changed(config, "data", clips=[str(tmp_path / "moved.mp4")])
    same = with_backbone(moved, loras={str(tmp_path / "pytorch_lora_weights.safetensors"): 0.5})
    assert identity_of(same) == before
    assert len(differences(before, identity_of(with_backbone(moved, loras={str(tmp_path): 0.6})))) == 1
    (tmp_path / "pytorch_lora_weights.safetensors").write_bytes(b"WEIGHTS")
    (tmp_path / "moved.mp4").write_bytes(b"A CLIP")
    found = differences(before, identity_of(moved))
    assert [line.split(":")[0] for line in found] == ["data.clips", "model.backbone.init_args.loras"]


def test_a_folder_of_pictures_counts_by_their_names_and_contents(config, tmp_path):
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    found = []
    for name, content in (("1.png", b"one"), ("2.png", b"two"), ("2.png", b"other"), ("3.png", b"two")):
        (pictures / name).write_bytes(content)
        found.append(identity_of(changed(config, "data", clips=[str(pictures)]))["data.clips"][0])
    assert len(set(found)) == 4
    assert found[-1] == identity_of(changed(config, "data", clips=[str(pictures / ".." / "pictures")]))["data.clips"][0]


def test_an_override_is_what_the_config_would_say(config):
    plain = identity_of_overridden(config, {"model.num_steps": 20, "data.motion.window": "5", "trainer.devices": 2})
    said = changed(config, "model", num_steps=20)
    said = changed(said, "data", motion={**config["data"]["motion"], "window": 5})
    assert plain == identity_of_overridden(said, {})
    for value in (None, False):  # which need not be the default
        assert identity_of_overridden(config, {"model.baseline": value}) != identity_of_overridden(config, {})


@pytest.mark.parametrize(
    "groups",
    [
        {},
        {"model": None, "data": {}, "trainer": {"callbacks": None}},
        {"trainer": {"callbacks": "GradientCache"}, "data": {"clips": "clip.mp4"}},
        {"trainer": {"callbacks": ["GradientCache", {"init_args": {}}]}},
        {"model": {"backbone": "wan"}},
        {"model": {"backbone": {"class_path": "DiffusersBackbone", "init_args": ["wan-tiny"]}}},
        {"model": {"backbone": {"init_args": {"model": None, "loras": ["a"]}}}},
    ],
    ids=str,
)
def test_whatever_a_config_says_is_left_to_its_parser_to_refuse(groups):
    assert differences(identity_of(groups), identity_of(groups)) == []


def test_every_shipped_config_has_an_identity():
    for path in CONFIGS.glob("*.yaml"):
        assert identity_of(yaml.safe_load(path.read_text()))


def test_a_scheduler_does_not_count_where_its_config_is_not_read(tmp_path):
    folder = shutil.copytree(BUNDLED["wan-tiny"], tmp_path / "wan")
    (folder / "scheduler" / "scheduler_config.json").write_text("{}")
    assert model_content(str(folder)) == model_content("wan-tiny")


def test_a_folder_that_is_no_model_has_a_content_too(tmp_path):
    (tmp_path / "transformer").mkdir()
    before = model_content(str(tmp_path))
    (tmp_path / "transformer" / "config.json").write_text("{}")
    assert model_content(str(tmp_path)) != before
