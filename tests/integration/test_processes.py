"""Training in several processes, started as users start it."""

import os
import sys

import pytest
import torch
import yaml
from safetensors.torch import load_file

from fastvmt_pl.backbones import DiffusersBackbone
from fastvmt_pl.cli.main import main
from fastvmt_pl.distillation import Sample, write_shard
from fastvmt_pl.distillation.shard_index import Shard, write_index
from fastvmt_pl.lora import DIFFUSERS_FILE
from fastvmt_pl.runs.options import CONFIGS

pytestmark = pytest.mark.processes

SHAPE = (8, 3, 4, 4)
SHARDED = {
    "class_path": "lightning.pytorch.strategies.ModelParallelStrategy",
    "init_args": {"data_parallel_size": 2, "tensor_parallel_size": 1, "save_distributed_checkpoint": False},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Seven samples in two shards, so that no batch divides them."""
    folder, backbone = tmp_path_factory.mktemp("data"), DiffusersBackbone()
    condition = backbone.embed_prompts(["a red cross on a navy background"]).compact()
    draw = torch.Generator().manual_seed(0)
    samples = [Sample(torch.randn(SHAPE, generator=draw), condition, "a red cross", number) for number in range(7)]
    write_shard(folder / "a.tar", samples[:3])
    write_shard(folder / "b.tar", samples[3:])
    write_shard(folder / "clip.tar", samples[:1])
    write_index(folder, [Shard("a.tar", "samples", 3), Shard("b.tar", "samples", 4), Shard("clip.tar", "clip", 1)])
    return folder


LATE = """
import atexit
import os
from pathlib import Path

from lightning import Callback


class Upload(Callback):
    def on_fit_start(self, trainer, pl_module):
        atexit.register(Path(f"uploaded-{trainer.global_rank}").touch)


class Bug(Upload):
    def teardown(self, trainer, pl_module, stage):
        raise ValueError("a bug")
"""
"""Callbacks of a user's: a logger uploads what it has when the process ends."""


@pytest.fixture(scope="module")
def train(start):
    """Trains in two processes, once for all tests that want the same, and returns the run's folder."""
    done = {}

    def run(strategy, resume=None):
        asked = str(strategy), resume
        if asked not in done:
            done[asked] = started(strategy, resume)
        return done[asked]

    def started(strategy, resume):
        folder, code, said = start(strategy, resume)
        assert code == 0, said[-3000:]
        assert len(list(folder.glob("uploaded-*"))) == 2
        return folder

    return run


@pytest.fixture(scope="module")
def write(data, tmp_path_factory):
    """Writes the config of a training into a folder of its own, which it returns."""

    def run(num_processes, strategy, batch_size, callbacks=()):
        folder = tmp_path_factory.mktemp("run")
        config = yaml.safe_load((CONFIGS / "wan_tiny_lora.yaml").read_text())
        config["model"] |= {"rank": 4, "num_warmup_steps": 1}
        # AdamW would turn a rounding error into a step wherever a gradient is all but zero
        config["model"]["optimizer"] = {"class_path": "torch.optim.SGD", "init_args": {"lr": 1.0, "momentum": 0.9}}
        config["data"] = {"folder": str(data), "source": "samples", "batch_size": batch_size, "batches_per_epoch": 3}
        previews = {
            "prompts": ["a blue circle on a gray background"],
            "num_steps": 1,
            "motion": {"block": 2, "window": 3, "tile": [1, 1]},
        }
        every_epoch = {"filename": "{epoch}", "save_top_k": -1, "save_on_train_epoch_end": True}
        config["trainer"] |= {
            "callbacks": [
                {"class_path": "fastvmt_pl.callbacks.LoraPreviews", "init_args": previews},
                *({"class_path": name} for name in callbacks),
                {"class_path": "ModelCheckpoint", "init_args": every_epoch},
            ],
            "max_epochs": 2,
            "precision": "32-true",
            "devices": num_processes,
            "strategy": strategy,
            "default_root_dir": str(folder),
            "enable_progress_bar": False,
            "logger": {"class_path": "CSVLogger", "init_args": {"save_dir": str(folder), "name": "", "version": ""}},
        }
        (folder / "training.yaml").write_text(yaml.safe_dump(config))
        return folder

    return run


@pytest.fixture(scope="module")
def start(write, program):
    """Trains in two processes, and returns the run's folder, the exit code and what was printed."""

    def run(strategy, resume=None, late="Upload"):
        folder = write(2, strategy, 2, [f"late.{late}"])
        (folder / "late.py").write_text(LATE)
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
        command += ["fastvmt_pl", "train", "--config", str(folder / "training.yaml")]
        if resume is not None:
            command += ["--ckpt_path", str(resume)]
        with program(command, cwd=folder, env={**os.environ, "PYTHONPATH": str(folder)}) as process:
            said = process.communicate(timeout=250)[0]
        return folder, process.returncode, said

    return run


def weights(folder):
    assert [path.name for path in (folder / "previews").iterdir()][-1:]
    return load_file(folder / "lora" / DIFFUSERS_FILE)


@pytest.fixture(scope="module")
def alone(write):
    """What this process alone trains."""
    folder = write(1, "auto", 4)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", "--config", "training.yaml"]) == 0
    return weights(folder)


@pytest.fixture(scope="module")
def failed(start):
    """The folder, the exit code and the output of a training whose last callback has a bug."""
    return start("ddp", late="Bug")


@pytest.fixture(params=["DDP", "FSDP2"])
def together(request):
    """The weights of two processes."""
    if request.param == "DDP":
        return weights(request.getfixturevalue("failed")[0])
    return weights(request.getfixturevalue("train")(SHARDED))


def test_two_processes_with_half_the_batch_each_give_the_same_weights(together, alone):
    assert together.keys() == alone.keys()
    for name, weight in alone.items():
        torch.testing.assert_close(together[name], weight, atol=1e-4, rtol=1e-3)
    assert max(float(weight.abs().max()) for name, weight in alone.items() if "lora_B" in name) > 0.01


@pytest.mark.parametrize(
    "strategy", [pytest.param("ddp", marks=pytest.mark.slow, id="DDP"), pytest.param(SHARDED, id="FSDP2")]
)
def test_a_run_in_two_processes_goes_on_from_its_checkpoint(train, strategy):
    whole = train(strategy)
    (first,) = whole.rglob("epoch=0.ckpt")
    resumed = train(strategy, resume=first)
    for name, weight in weights(whole).items():
        torch.testing.assert_close(weights(resumed)[name], weight, atol=1e-6, rtol=1e-5)


def test_a_bug_in_several_processes_shows_its_traceback_and_ends_them_with_1(failed):
    _, code, said = failed
    assert code == 1
    assert "Traceback" in said
    assert "ValueError: a bug" in said
    assert "exitcode  : 1 " in said  # torchrun's report; an abort would be -6
