import fcntl
import os
import time

import pytest
import torch

from fastvmt_pl.cli.cache import cache as cache_command
from fastvmt_pl.method.motion_cache import LIMIT, MotionCache

TENSORS = {"latents": torch.arange(1000.0), "flow": torch.ones(3, 4)}


@pytest.fixture
def cache(tmp_path):
    return MotionCache(tmp_path / "cache")


def store(cache, key, age=0.0):
    """Store an entry that was last used so many seconds ago."""
    path = cache.store(key, TENSORS, f"{key}.mp4")
    os.utime(path, (time.time() - age,) * 2)
    return path


def keys(cache):
    return [entry.path.stem for entry in cache.entries()]


def limit_to(monkeypatch, cache, entries):
    size = cache.entries()[0].size
    monkeypatch.setenv(LIMIT, str((entries + 0.5) * size / 2**30))


def test_what_is_stored_is_found_and_listed(cache):
    assert cache.load("a") is None
    store(cache, "a", age=60)
    found = cache.load("a")
    assert found.keys() == TENSORS.keys()
    assert all(torch.equal(found[name], TENSORS[name]) for name in found)
    (entry,) = cache.entries()
    assert (entry.clip, entry.size) == ("a.mp4", entry.path.stat().st_size)
    assert abs(entry.used - time.time()) < 30  # reading it was a use


def test_the_least_recently_used_go_when_the_folder_is_full(cache, monkeypatch):
    for age, key in ((30, "c"), (50, "a"), (40, "b")):
        store(cache, key, age)
    limit_to(monkeypatch, cache, 3)
    cache.load("a")
    store(cache, "new")
    assert sorted(keys(cache)) == ["a", "c", "new"]
    monkeypatch.setenv(LIMIT, "0")
    store(cache, "last")
    assert keys(cache) == ["last"]  # what was just written stays


def test_an_entry_that_is_being_read_is_never_removed(cache, monkeypatch):
    first = store(cache, "a", age=50)
    store(cache, "b", age=40)
    limit_to(monkeypatch, cache, 2)
    with first.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        store(cache, "c")
        assert sorted(keys(cache)) == ["a", "c"]
        assert [entry.path.stem for entry in cache.remove(cache.entries())] == ["c"]
    assert cache.load("a") is not None


@pytest.mark.parametrize("by", ["store", "clear"])
def test_what_killed_processes_left_unfinished_is_removed_after_a_day(cache, by):
    store(cache, "a")
    left = {age: cache.folder / f".writing-{age}" for age in (23, 25)}
    for age, folder in left.items():
        folder.mkdir()
        (folder / "b.safetensors").write_bytes(bytes(100))
        os.utime(folder, (time.time() - age * 3600,) * 2)
    if by == "clear":
        cache_command(clear=True, folder=cache.folder)
        assert cache.entries() == []
    else:
        store(cache, "c")
    assert [age for age, folder in left.items() if folder.exists()] == [23]


@pytest.mark.parametrize("limit", ["-1", "much", "nan"])
def test_a_limit_that_cannot_be_is_refused(cache, monkeypatch, limit):
    monkeypatch.setenv(LIMIT, limit)
    with pytest.raises(ValueError, match=f"{LIMIT} is {limit}"):
        cache.check()


def test_a_folder_that_cannot_be_used_is_named(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ValueError, match=rf"{folder}.*data\.cache_dir.*XDG_CACHE_HOME"):
            MotionCache(folder).check()
