"""The cache of motion, seen from the command line."""

import os
import subprocess
import sys

import pytest

from fastvmt_pl.method.motion_cache import MotionCache

PROMPT = "a red circle on a gray background"
SMALL = ["--num-frames", "5", "--size", "32x32", "--num-steps", "2", "--num-guided-steps", "1", "--no-baseline"]
HOMELESS = """
import os, pwd, sys

def nobody(uid):
    raise KeyError(uid)

pwd.getpwuid = nobody  # as for a user id that the machine does not know
from fastvmt_pl.cli.main import main
sys.exit(main(sys.argv[1:]))
"""


def test_motion_is_listed_and_cleared(succeed, clip, tmp_path):
    assert "0 entries" in succeed("cache").out
    succeed("transfer", clip, PROMPT, *SMALL, "--output", "out")
    said = succeed("cache").out
    assert clip in said
    assert "2 entries" in said  # its latents, and its motion
    assert str(tmp_path / "cache") in said
    assert "10 GiB" in said
    assert "removed 2 entries" in succeed("cache", "--clear").out
    assert MotionCache().entries() == []


@pytest.mark.usefixtures("no_weights")
def test_a_cache_folder_that_cannot_be_used_is_told_before_anything_is_loaded(refused, clip, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    line = refused("transfer", clip, PROMPT, *SMALL, "--output", "out")
    assert str(tmp_path / "file") in line
    assert "XDG_CACHE_HOME" in line
    assert "data.cache_dir" in line
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("FASTVMT_MOTION_CACHE_GIB", "lots")
    assert "FASTVMT_MOTION_CACHE_GIB is lots" in refused("transfer", clip, PROMPT, *SMALL, "--output", "out")
    assert not (tmp_path / "out").exists()


def test_without_a_home_the_package_is_imported_and_says_what_to_set(clip):
    left_out = ("HOME", "XDG_CACHE_HOME", "USER", "LOGNAME", "LNAME", "USERNAME")
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    command = [sys.executable, "-c", HOMELESS, "transfer", clip, PROMPT, *SMALL]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert "XDG_CACHE_HOME" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
