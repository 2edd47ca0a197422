import os
from types import SimpleNamespace

import pytest
import torch
from av.codec.codec import UnknownCodecError
from av.error import InvalidDataError

from fastvmt_pl.backbones.precision import settled
from fastvmt_pl.planning import machine as command
from fastvmt_pl.planning.machine import (
    check_devices,
    check_folders,
    check_machine,
    check_packages,
    check_processes,
    check_slurm,
    check_video,
)


@pytest.fixture(autouse=True)
def _no_slurm(monkeypatch):
    for name in list(os.environ):
        if name.startswith("SLURM_"):
            monkeypatch.delenv(name)


def test_a_machine_that_passes_the_tests_is_ready(tmp_path):
    found = list(check_machine(tmp_path / "runs"))
    assert all(check.status != "failure" for check in found)
    assert {"torch", "lightning", "bfloat16", "video", "runs", "locks", "SLURM"} <= {check.name for check in found}
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("versions", "says"),
    [
        ({"lightning": "2.6.2"}, "2.6.2"),
        ({"torch": "1.13.0"}, "torch>=2.6"),
        ({"einops": None}, "einops>=0.8"),
    ],
)
def test_unsuitable_packages_are_failures(monkeypatch, versions, says):
    real = command.version

    def version(name):
        if versions.get(name, "") is None:
            raise command.PackageNotFoundError(name)
        return versions.get(name) or real(name)

    monkeypatch.setattr(command, "version", version)
    (failure,) = (check for check in check_packages() if check.status == "failure")
    assert failure.name in versions
    assert says in str(failure)


def test_a_folder_that_cannot_be_written_is_a_failure_and_a_full_disk_a_warning(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    runs = next(check_folders(tmp_path / "file" / "runs"))
    assert runs.status == "failure"
    assert "--folder" in runs.fix
    monkeypatch.setattr(command.shutil, "disk_usage", lambda path: SimpleNamespace(free=2**29))
    runs = next(check_folders(tmp_path))
    assert runs.status == "warning"
    assert "2 GiB" in runs.fix


@pytest.mark.parametrize(
    ("variables", "status", "says"),
    [
        ({}, "ok", "SLURM job"),
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4"}, "warning", "srun"),
        ({"SLURM_JOB_ID": "7"}, "warning", "--ntasks-per-node"),
        (
            {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_STEP_ID": "0", "SLURM_JOB_NUM_NODES": "2"},
            "ok",
            "4 tasks",
        ),
    ],
)
def test_a_slurm_job_is_checked_for_its_processes(monkeypatch, variables, status, says):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    (check,) = check_slurm()
    assert check.status == status
    assert says in str(check)


@pytest.mark.parametrize(
    "error", [RuntimeError("broken"), UnknownCodecError("libx264"), InvalidDataError(1094995529, "broken")]
)
def test_video_that_does_not_work_is_a_failure_with_a_fix(monkeypatch, error):
    def broken(*_):
        raise error

    monkeypatch.setattr(command, "write_video", broken)
    (check,) = check_video()
    assert check.status == "failure"
    assert "av" in check.fix


def test_processes_that_cannot_communicate_are_a_warning(monkeypatch):
    monkeypatch.setattr(command.torch.distributed, "is_gloo_available", lambda: False)
    (check,) = check_processes()
    assert check.status == "warning"


def test_a_machine_without_a_gpu_is_a_warning(monkeypatch):
    monkeypatch.setattr(command.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(command.torch.backends.mps, "is_available", lambda: False)
    device, precision = check_devices()
    assert (device.status, precision.status) == ("warning", "ok")
    assert precision.detail.endswith(settled("auto", torch.device("cpu")))
