import json

import pytest
from lightning.pytorch.callbacks import ModelCheckpoint

from fastvmt_pl.callbacks import Costs, GradientCache, RunFolder


def test_a_batch_of_two_takes_more_memory_than_one(fit):
    alone, both = Costs(profile_cpu=True), Costs(profile_cpu=True)
    fit([GradientCache(3), alone], num_guided_steps=1, num_inner_steps=2)
    fit(
        [GradientCache(3), both],
        num_guided_steps=1,
        num_inner_steps=2,
        clips=2,
        prompts=("a red cross", "a green circle"),
    )
    assert both.peak_bytes > 1.5 * alone.peak_bytes > 500_000
    assert min(alone.seconds, both.seconds) > 0


def test_without_guided_steps_there_is_no_gradient_to_measure(fit):
    costs = Costs(profile_cpu=True)
    fit([costs], num_guided_steps=0)
    assert costs.peak_bytes is None
    assert costs.seconds > 0


def test_a_second_fit_is_measured_like_the_first(fit):
    costs = Costs(profile_cpu=True)
    fit([costs], num_guided_steps=1, num_inner_steps=2)
    first = costs.peak_bytes
    fit([costs], num_guided_steps=1, num_inner_steps=2)
    assert costs.peak_bytes == pytest.approx(first, rel=0.05)


def test_memory_on_a_cpu_is_only_measured_on_request(fit):
    costs = Costs()
    fit([costs], num_guided_steps=1, num_inner_steps=2)
    assert costs.peak_bytes is None
    assert costs.seconds > 0


@pytest.mark.parametrize("first", [True, False])
def test_the_time_includes_resumed_runs_at_any_position_of_the_callback(fit, tmp_path, first):
    costs, folder = Costs(), RunFolder(tmp_path / "run")
    checkpoint = ModelCheckpoint(tmp_path / "kept", filename="{step}", save_top_k=-1, every_n_train_steps=1)
    fit([*([costs, folder] if first else [folder, costs]), checkpoint], num_guided_steps=1, num_inner_steps=2)
    (job,) = json.loads((tmp_path / "run" / "metrics.json").read_text())["jobs"]
    assert 0 < job["seconds"] <= costs.seconds + 5e-4  # rounding
    resumed = Costs()
    fit([resumed], num_guided_steps=1, num_inner_steps=2, ckpt_path=tmp_path / "kept" / "step=2.ckpt")
    assert resumed.earlier > 0
    assert resumed.seconds > resumed.earlier
