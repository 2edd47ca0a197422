"""``dtype: auto`` on CPUs with and without bfloat16: what is used is what a run's settings say."""

import json
from pathlib import Path

import pytest
import torch
import yaml

from fastvmt_pl.callbacks import RunFolder
from fastvmt_pl.cli.main import main
from fastvmt_pl.distillation import Sample, write_shard
from fastvmt_pl.distillation.shard_index import Shard, write_index
from fastvmt_pl.runs.options import CONFIGS

PROMPT = "a red circle on a gray background"


@pytest.fixture
def seem(monkeypatch):
    """Makes this CPU seem to be one on which a precision is fast."""

    def run(precision):
        has = precision == "bfloat16"
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: has)
        monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: has)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has)
        return precision

    return run


@pytest.fixture(params=["bfloat16", "float32"])
def fast(request, seem):
    """The precision that is fast on this CPU, or seems to be."""
    return seem(request.param)


def begin(*args):
    """Run a command until it wants to read weights."""
    with pytest.raises(pytest.fail.Exception, match="weights were read"):
        main([str(arg) for arg in args])


def dtype_of(path):
    return yaml.safe_load(Path(path).read_text())["model"]["backbone"]["init_args"]["dtype"]


@pytest.mark.usefixtures("no_weights")
def test_a_run_says_what_it_uses(fast, clip):
    begin("transfer", clip, PROMPT, "--dtype", "auto", "--output", "transfer")
    assert dtype_of("transfer/config.yaml") == fast
    begin("sample", PROMPT, "--dtype", "auto", "--output", "sample")
    assert yaml.safe_load(Path("sample/config.yaml").read_text())["dtype"] == fast
    begin("distill", clip, PROMPT, "--dtype", "auto", "--output", "distill")
    assert dtype_of("distill/config.yaml") == dtype_of("distill/teacher.yaml") == fast


@pytest.mark.usefixtures("no_weights")
def test_a_training_says_what_it_uses(fast):
    write_shard(Path("data/a.tar"), [Sample(torch.zeros(8, 3, 4, 4), {"text": torch.zeros(2, 64)}, PROMPT)])
    write_index(Path("data"), [Shard("a.tar", "samples", 1)])
    args = ["--config", CONFIGS / "wan_tiny_lora.yaml", "--data.folder", "data", "--data.source", "samples"]
    begin("train", *args, "--model.backbone.init_args.dtype", "auto")
    assert dtype_of("lightning_logs/version_0/config.yaml") == fast


@pytest.mark.usefixtures("no_weights")
def test_a_run_that_was_begun_in_another_precision_is_another_run(fast, refused, clip):
    begin("transfer", clip, PROMPT, "--dtype", "auto", "--output", "out")
    other = "float32" if fast == "bfloat16" else "bfloat16"
    assert "out" in refused("transfer", clip, PROMPT, "--dtype", other, "--output", "out")


def test_a_job_is_not_continued_in_another_precision(seem, succeed, refused, clip, monkeypatch):
    def killed(*_, **__):
        raise RuntimeError("killed")

    Path("jobs.jsonl").write_text(json.dumps({"name": "job", "clip": clip, "prompt": PROMPT}))
    small = [
        "--num-frames=5",
        "--size=32x32",
        "--num-steps=2",
        "--num-guided-steps=1",
        "--baseline=false",
        "--dtype=auto",
        "--output=out",
    ]
    seem("float32")
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "teardown", killed)
        refused("transfer", "--jobs=jobs.jsonl", *small, code=1)
    seem("bfloat16")
    assert "job" in refused("transfer", "--jobs=jobs.jsonl", *small, code=1)
    assert "dtype: float32 there, bfloat16 now" in Path("out/results.csv").read_text()
    seem("float32")
    succeed("transfer", "--jobs=jobs.jsonl", *small)


@pytest.mark.parametrize(
    ("here", "options", "expected"),
    [
        ("bfloat16", ["--device", "cpu"], "bfloat16"),
        ("float32", ["--device", "cpu", "--memory", "8"], "float32"),
        ("float32", ["--device", "cuda", "--memory", "8"], "bfloat16"),
    ],
    ids=str,
)
def test_a_plan_is_for_the_device_or_for_a_gpu_elsewhere(seem, succeed, small_config, here, options, expected):
    seem(here)
    small = ["--config", small_config, "--no-calibrated", "--dtype", "auto", "--size", "32x32"]
    assert f"dtype auto is planned as {expected}" in succeed("plan", *options, *small).out
