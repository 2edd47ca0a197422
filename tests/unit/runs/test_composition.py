import pytest
import torch
import yaml

from fastvmt_pl.backbones import DiffusersBackbone
from fastvmt_pl.errors import UserError
from fastvmt_pl.method.optimizers import NormalizedGradientDescent
from fastvmt_pl.runs.composition import compose, compose_training
from fastvmt_pl.runs.options import CONFIGS
from fastvmt_pl.runs.settings import merged, read_config


@pytest.fixture
def config(toy_clips):
    jobs = {"data.clips": toy_clips[:1], "data.prompts": ["a red circle"], "data.num_frames": 5}
    return merged(read_config(CONFIGS / "wan_tiny.yaml"), jobs | {"data.keep_motion": False})


def made_by(module):
    (group,) = module.optimizer([torch.nn.Parameter(torch.zeros(1))]).param_groups
    return type(module.optimizer([torch.nn.Parameter(torch.zeros(1))])), group["lr"]


def test_a_config_gives_module_datamodule_trainer_and_all_settings(config):
    run = compose(config)
    assert made_by(run.model) == (NormalizedGradientDescent, 0.02)
    assert run.datamodule.motion.window == 7
    assert run.trainer.max_epochs == run.model.num_guided_steps == 20
    settled = yaml.safe_load(run.config_text())
    assert settled["trainer"]["max_epochs"] == 20
    assert settled["data"]["start"] == 0.0


def test_objects_are_used_as_they_are(config, toy_clips):
    backbone = DiffusersBackbone("wan-tiny")
    run = compose(merged(config, {"model.backbone": backbone}))
    assert run.model.backbone is backbone
    assert run.datamodule.sources[0] is toy_clips[0]


def test_another_class_takes_none_of_the_settings_of_the_first(config):
    run = compose(merged(config, {"model.optimizer.class_path": "torch.optim.SGD"}))
    assert made_by(run.model) == (torch.optim.SGD, 1e-3)


@pytest.mark.parametrize("value", ["4", 4])
def test_texts_are_read_by_the_type_of_their_setting(config, value):
    run = compose(merged(config, {"model.num_steps": value, "model.num_guided_steps": value, "data.prompts": ["4"]}))
    assert (run.model.num_steps, run.datamodule.prompts) == (4, ("4",))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("model.num_stepz", 3),
        ("model.num_steps", "many"),
        ("model.num_steps", 0),
        ("data.motion.window", "wide"),
        ("data.size", "48x48"),
        ("trainer.acelerator", "cpu"),
        ("model.losses", [{"class_path": "fastvmt_pl.objectives.NoLoss"}]),
        ("models", {"num_steps": 3}),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(config, name, value):
    with pytest.raises(UserError, match=name.rsplit(".", 1)[-1]):
        compose(merged(config, {name: value}))


def test_without_a_trainer_no_device_is_looked_for(config):
    run = compose(merged(config, {"trainer.accelerator": "cuda"}), check="nothing", with_trainer=False)
    assert run.model.num_steps == 30
    training = read_config(CONFIGS / "wan_tiny_lora.yaml")
    made = compose_training(
        merged(training, {"data.folder": "anywhere", "trainer.accelerator": "cuda"}), with_trainer=False
    )
    assert made.datamodule.batch_size == 8
