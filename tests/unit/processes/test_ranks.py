import os

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.utilities import rank_zero_only

from fastvmt_pl.errors import UserError
from fastvmt_pl.processes.ranks import Rank, alone, num_to_start, read_rank, take_own_gpu


@pytest.mark.parametrize(
    ("environment", "rank"),
    [
        ({}, Rank(0, 0, False)),
        ({"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8"}, Rank(5, 1, True)),
        ({"SLURM_PROCID": "9", "SLURM_LOCALID": "1", "SLURM_NTASKS": "16", "SLURM_STEP_ID": "0"}, Rank(9, 1, True)),
        ({"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_MIN": "3"}, Rank(0, 0, False)),
        ({"SLURM_ARRAY_TASK_ID": "4", "SLURM_ARRAY_TASK_MIN": "3"}, Rank(5, 0, False)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, Rank(0, 0, False)),  # a batch script
        ({"SLURM_PROCID": "0", "SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_MIN": "3"}, Rank(1, 0, False)),
    ],
    ids=str,
)
def test_the_rank_is_read_from_the_launchers_environment(environment, rank):
    assert read_rank(environment) == rank


@pytest.mark.parametrize(
    ("config", "devices", "launched", "number"),
    [
        ({}, None, False, 1),
        ({"trainer": None}, None, False, 1),
        ({"trainer": {"devices": 4}}, None, False, 4),
        ({"trainer": {"devices": 4}}, 2, False, 2),
        ({"trainer": {"devices": [3]}}, None, False, 1),  # one device, by its index
        ({"trainer": {"devices": 4}}, None, True, 1),
        ({}, 1, True, 1),
    ],
)
def test_as_many_processes_start_as_requested(config, devices, launched, number):
    assert num_to_start(Rank(0, 0, launched), devices, config) == number


@pytest.mark.parametrize("devices", [0, 2])
def test_no_processes_start_next_to_those_of_a_launcher(devices):
    with pytest.raises(UserError, match=str(devices)):
        num_to_start(Rank(0, 0, True), devices, {})


def test_lightning_sees_a_single_process_within_alone(monkeypatch):
    variables = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "TORCHELASTIC_RUN_ID": "x", "SLURM_NTASKS": "2"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    with alone():
        trainer = Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False)
        assert (trainer.world_size, trainer.global_rank, rank_zero_only.rank) == (1, 0, 0)
    assert rank_zero_only.rank == 1
    assert {name: os.environ[name] for name in variables} == variables


@pytest.mark.parametrize(
    ("seen", "local", "launched", "own"),
    [(None, 2, True, "2"), ("4,6", 1, True, "6"), ("4,6", 3, True, "6"), ("5", 3, True, "5"), (None, 0, False, None)],
)
def test_each_process_sees_its_own_gpu(monkeypatch, seen, local, launched, own):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    if seen is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", seen)
    take_own_gpu(Rank(local, local, launched))
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == own
