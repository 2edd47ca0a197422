from copy import deepcopy

import pytest

from fastvmt_pl.runs.settings import merged

ADAMW = {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.1, "weight_decay": 0.0}}
CONFIG = {"model": {"optimizer": ADAMW, "num_steps": 3}, "data": {"motion": {"block": 4, "window": 7}}, "trainer": None}


@pytest.mark.parametrize(
    ("overrides", "group", "found"),
    [
        ({"model.num_steps": 4}, "model", {"optimizer": ADAMW, "num_steps": 4}),
        ({"model.num_steps": "4"}, "model", {"optimizer": ADAMW, "num_steps": "4"}),
        ({"data.motion.window": None}, "data", {"motion": {"block": 4, "window": None}}),
        ({"data.motion": {"window": 5}}, "data", {"motion": {"block": 4, "window": 5}}),
        (
            {"model.optimizer.lr": 0.2},
            "model",
            {"optimizer": {**ADAMW, "init_args": {"lr": 0.2, "weight_decay": 0.0}}, "num_steps": 3},
        ),
        ({"data.clips": ["a"]}, "data", {**CONFIG["data"], "clips": ["a"]}),
        ({"trainer.devices": 2}, "trainer", {"devices": 2}),
        (
            {"model.optimizer.init_args.lr": 0.2},
            "model",
            {"optimizer": {**ADAMW, "init_args": {"lr": 0.2, "weight_decay": 0.0}}, "num_steps": 3},
        ),
        (
            {"model.optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.2}}},
            "model",
            {"optimizer": {**ADAMW, "init_args": {"lr": 0.2, "weight_decay": 0.0}}, "num_steps": 3},
        ),
        (
            {"model.optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.2}}},
            "model",
            {"optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.2}}, "num_steps": 3},
        ),
        (
            {"model.optimizer.class_path": "torch.optim.SGD", "model.optimizer.init_args.lr": 1.0},
            "model",
            {"optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 1.0}}, "num_steps": 3},
        ),
    ],
)
def test_an_override_is_what_the_config_would_say(overrides, group, found):
    before = deepcopy(CONFIG)
    assert merged(CONFIG, overrides)[group] == found
    assert before == CONFIG


def test_loras_of_an_override_replace_those_of_the_config():
    config = {"model": {"backbone": {"init_args": {"loras": {"a": 1.0}}}}}
    changed = merged(config, {"model.backbone.init_args.loras": {"b": 0.5}})
    assert changed["model"]["backbone"]["init_args"]["loras"] == {"b": 0.5}
