import json

import pytest
import torch

from fastvmt_pl.backbones import DiffusersBackbone
from fastvmt_pl.callbacks import GradientCache
from fastvmt_pl.cli.main import main
from fastvmt_pl.method.motion_transfer import MotionTransfer
from fastvmt_pl.planning.planning_run import memory_of, num_gradients


def test_a_run_that_fits_is_shown_with_its_time(succeed, small_config):
    said = succeed("plan", "--config", small_config, "--device", "cpu", "--num-jobs", "2").out
    assert "3 latent frames of 12 x 12 tokens, 432 tokens a job" in said
    assert "weights of the transformer" in said
    row = next(line for line in said.splitlines() if line.startswith("| guide"))
    assert row.split("|")[3].strip() == "80"  # two batches of 20 guided steps of 2 gradients
    assert "time, estimated" in said
    assert "it fits" in said


def test_a_run_that_does_not_fit_elsewhere_is_told_what_to_change(capsys, small_config):
    options = ["--num-jobs", "6", "--batch-size", "6", "--memory", "0.0465", "--no-calibrated"]
    assert main(["plan", "--config", str(small_config), *options]) == 1
    said = capsys.readouterr()
    first, second = (line for line in said.out.splitlines() if line.startswith("set "))
    assert first.startswith("set offload: true")
    assert second.startswith("set gradient_checkpointing: true")
    assert second.endswith("which fits")
    assert "does not fit" in said.err


def test_a_list_is_planned_by_its_settings(succeed, small_config, tmp_path):
    rows = [{"name": str(n), "clip": f"{n % 2}.mp4", "prompt": "a red cross"} for n in range(6)]
    rows += [{"name": "long", "clip": "0.mp4", "prompt": "a red cross", "num_frames": 9}, {"prompt": "no clip"}]
    (tmp_path / "jobs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = ["--config", small_config, "--device", "cpu", "--batch-size", "2", "--no-calibrated"]
    said = succeed("plan", "--jobs", tmp_path / "jobs.jsonl", *options).out
    assert "1 entries are left out" in said
    assert "6 jobs on 2 clips" in said
    assert "1 jobs on 1 clips" in said
    assert "num_frames 9" in said
    times = [line.split("|")[3].strip() for line in said.splitlines() if line.startswith("| decode")]
    assert times == ["16", "2"]  # with and without guidance; four batches of two, as each clip has three prompts


@pytest.mark.parametrize(
    ("cache", "expected"),
    [
        (None, 30),
        (GradientCache(3), 12),
        (GradientCache(3, carry_over=True), 10),
        (GradientCache(3, budget=0.3), 30),
    ],
)
def test_gradients_are_counted_as_the_cache_computes_them(cache, expected):
    module = MotionTransfer(DiffusersBackbone(), num_steps=5, num_guided_steps=3, num_inner_steps=10)
    assert num_gradients(module, cache) == expected


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--num-jobs", "0"], "num_jobs is 0"),
        (["--num-frames", "6"], "num_frames is 6"),
        (["--size", "40x40"], "height is 40"),
        (["--device", "cuda:99"], "--no-calibrated"),
    ],
)
def test_what_cannot_be_planned_is_refused(refused, options, says):
    assert says in refused("plan", *options)


def test_a_device_has_memory():
    assert memory_of(torch.device("cpu")) > 2**30
