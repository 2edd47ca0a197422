import importlib
import warnings

import pytest

from fastvmt_pl.runs.composition import compose
from fastvmt_pl.runs.old_spellings import renewed
from fastvmt_pl.runs.options import CONFIGS
from fastvmt_pl.runs.settings import read_config

RELEASED = [
    "fastvmt_pl.backbones.WanBackbone",
    "fastvmt_pl.metrics.MotionFlowLoss",
    "fastvmt_pl.metrics.WindowLoss",
    "fastvmt_pl.metrics.motion.WindowLoss",
    "fastvmt_pl.metrics.MotionFidelity",
    "fastvmt_pl.metrics.video.FlowEndpointError",
    "fastvmt_pl.motion.MotionSettings",
    "fastvmt_pl.motion_transfer.MotionTransfer",
    "fastvmt_pl.motion_distillation.MotionDistillation",
    "fastvmt_pl.optimizers.NormalizedGradientDescent",
    "fastvmt_pl.checkpoint_io.AtomicCheckpointIO",
    "fastvmt_pl.tracking.opencv.LucasKanade",
    "fastvmt_pl.backbones.protocol.Backbone",
    "fastvmt_pl.callbacks.preemption.Preemption",
    "fastvmt_pl.datamodules.motion.MotionDataModule",
    "fastvmt_pl.datamodules.distillation.DistillationDataModule",
    "fastvmt_pl.datamodules.toy_metric.ToyPathError",
]


@pytest.mark.parametrize("path", RELEASED)
def test_a_class_path_that_was_released_is_found_and_named_in_a_warning(path):
    with pytest.warns(FutureWarning) as warned:
        found = renewed([{"a": {"class_path": path, "init_args": {"weight": 2}}}])
    new = found[0]["a"]["class_path"]
    assert path in str(warned[0].message)
    assert new in str(warned[0].message)
    module, _, name = new.rpartition(".")
    assert hasattr(importlib.import_module(module), name)
    assert found[0]["a"]["init_args"] == {"weight": 2}


@pytest.mark.parametrize("path", ["torch.optim.AdamW", "fastvmt_pl.callbacks.GradientCache", "my.metrics.MotionLoss"])
def test_other_class_paths_stay(path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert renewed({"class_path": path}) == {"class_path": path}


def test_a_config_of_an_older_version_makes_a_run(toy_clips):
    config = read_config(CONFIGS / "wan_tiny.yaml")
    for loss in config["model"]["losses"]:
        loss["class_path"] = loss["class_path"].replace("objectives", "metrics")
    config["data"] |= {"clips": toy_clips[:1], "prompts": ["a red circle"], "num_frames": 5}
    with pytest.warns(FutureWarning, match="WindowLoss"):
        cli = compose(config)
    assert [type(loss).__name__ for loss in cli.model.losses] == ["MotionFlowLoss", "WindowLoss"]


def test_a_setting_that_moved_to_another_group_is_found_there():
    with pytest.warns(FutureWarning, match=r"data\.motion\.centres"):
        found = renewed({"model": {"num_steps": 4, "centres": "sample"}, "data": {"motion": {"block": 1}}})
    assert found == {"model": {"num_steps": 4}, "data": {"motion": {"block": 1, "centres": "sample"}}}
