from fastvmt_pl.report.run_settings import differing, flattened


def test_classes_are_shown_by_their_names():
    config = {
        "model": {
            "backbone": {"class_path": "fastvmt_pl.backbones.DiffusersBackbone", "init_args": {"model": "wan-tiny"}}
        },
        "trainer": {
            "callbacks": [{"class_path": "a.GradientCache", "init_args": {"interval": 3}}, {"class_path": "b.Costs"}]
        },
    }
    assert flattened(config) == {
        "model.backbone": "DiffusersBackbone",
        "model.backbone.DiffusersBackbone.model": '"wan-tiny"',
        "trainer.callbacks": "GradientCache, Costs",
        "trainer.callbacks.GradientCache.interval": "3",
    }


def test_only_settings_that_differ_between_runs_are_returned():
    runs = [
        {
            "model.num_steps": "5",
            "trainer.max_epochs": "3",
            "model.shift": "3",
            "data.clips": '["a"]',
            "data.motion.window": "5",
        },
        {"model.num_steps": "6", "model.shift": "3", "data.clips": '["b"]'},
    ]
    assert differing(runs) == [
        {"model.num_steps": "5", "data.motion.window": "5"},
        {"model.num_steps": "6", "data.motion.window": ""},
    ]
    assert differing(runs[:1]) == [{}]
