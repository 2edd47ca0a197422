import json
import os
import shutil
import signal
import subprocess
import time
from contextlib import contextmanager, suppress

import pytest
import yaml

from fastvmt_pl.backbones import DiffusersBackbone
from fastvmt_pl.backbones.model_folder import BUNDLED
from fastvmt_pl.cli.main import main
from fastvmt_pl.clips.video_writing import write_video
from fastvmt_pl.runs.options import CONFIGS
from fastvmt_pl.toy import ToyWorld


@pytest.fixture(autouse=True)
def _own_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    write_video(path, ToyWorld(11, num_objects=1, camera=False, paths=("linear",))[0].frames, 8.0)
    return str(path)


@pytest.fixture
def no_weights(monkeypatch):
    """Fails a test as soon as any weights are read."""
    for part in ("transformer", "vae", "text_pipeline"):
        monkeypatch.setattr(DiffusersBackbone, part, property(lambda self: pytest.fail("weights were read")))


@pytest.fixture
def small_config(tmp_path):
    """A config of a wan-tiny of two blocks, whose weights would not load."""
    shutil.copytree(BUNDLED["wan-tiny"], tmp_path / "model")
    path = tmp_path / "model" / "transformer" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_layers": 2}))
    for weights in (tmp_path / "model").rglob("*.safetensors"):
        weights.write_bytes(b"")
    config = yaml.safe_load((CONFIGS / "wan_tiny.yaml").read_text())
    config["model"]["backbone"]["init_args"]["model"] = str(tmp_path / "model")
    config["data"] |= {"num_frames": 5, "motion": {**config["data"]["motion"], "block": 1}}
    config["trainer"]["accelerator"] = "cuda"
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(config))
    return tmp_path / "small.yaml"


@pytest.fixture
def refused(capsys):
    """Runs a command that must fail, and returns its one line of error."""

    def run(*args, code=2):
        assert main([str(arg) for arg in args]) == code
        lines = capsys.readouterr().err.splitlines()
        assert [line for line in lines if line.startswith("fastvmt: error: ")] == lines[-1:]
        assert not any("Traceback" in line or "usage" in line for line in lines)
        if code == 2:
            assert len(lines) == 1
        return lines[-1]

    return run


@pytest.fixture(scope="session")
def wait_until():
    """Waits until something is true, for a minute or two at the most."""

    def wait(condition, what, seconds=120):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"no {what} within {seconds} seconds"
            time.sleep(0.02)

    return wait


@pytest.fixture(scope="session")
def program():
    """Starts a program for a block, and ends it there with all that it has started, whatever happens in the block."""

    @contextmanager
    def start(command, **options):
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "start_new_session": True}
        with subprocess.Popen(command, **options) as process:
            try:
                yield process
            finally:
                process.terminate()  # which a launcher passes on to processes of other groups
                with suppress(subprocess.TimeoutExpired):
                    process.wait(10)
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)

    return start


@pytest.fixture
def succeed(capsys):
    """Runs a command that must succeed, and returns its output."""

    def run(*args):
        assert main([str(arg) for arg in args]) == 0
        return capsys.readouterr()

    return run
