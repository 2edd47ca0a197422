import hashlib
import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from filelock import FileLock

from fastvmt_pl.files import file_hash
from fastvmt_pl.files.file_hash import file_sha256

LONG_AGO = 1_000_000_000


@pytest.fixture(autouse=True)
def _new_process(monkeypatch):
    monkeypatch.setattr(file_hash, "KNOWN", {})


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "fastvmt_pl" / "hashes"


@pytest.fixture
def hashed(monkeypatch):
    """The files whose content was read."""
    names, digest = [], hashlib.file_digest

    def counted(file, name):
        names.append(os.path.basename(file.name))
        return digest(file, name)

    monkeypatch.setattr(file_hash.hashlib, "file_digest", counted)
    return names


@pytest.fixture
def weights(tmp_path):
    path = tmp_path / "weights"
    path.write_bytes(bytes(100_000))
    os.utime(path, (LONG_AGO, LONG_AGO))
    return path


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.usefixtures("cache")
class TestMemory:
    def test_a_file_is_hashed_once_for_all_spellings_of_its_path(self, weights, hashed, tmp_path, monkeypatch):
        assert file_sha256(weights) == sha256(weights)
        (tmp_path / "link").symlink_to(weights)
        monkeypatch.chdir(tmp_path)
        for path in (weights, tmp_path / "link", weights.relative_to(tmp_path)):
            assert file_sha256(path) == sha256(weights)
            file_hash.KNOWN.clear()  # as in another process
        assert hashed == ["weights"]

    def test_a_process_remembers_the_hash(self, weights, hashed, cache):
        file_sha256(weights)
        for record in cache.iterdir():
            record.unlink()
        assert file_sha256(weights) == sha256(weights)
        assert hashed == ["weights"]

    def test_a_lock_that_is_never_released_only_delays(self, weights, hashed, cache, monkeypatch):
        monkeypatch.setattr(file_hash, "PATIENCE", 0.1)
        file_sha256(weights)
        (record,) = cache.glob("*.json")
        record.unlink()
        file_hash.KNOWN.clear()
        with FileLock(record.with_suffix(".lock")):
            assert file_sha256(weights) == sha256(weights)
        assert len(hashed) == 2

    @pytest.mark.parametrize("position", [0, 31_337, 99_999])
    def test_a_changed_byte_changes_the_hash(self, weights, position):
        before = file_sha256(weights)
        with weights.open("r+b") as file:
            file.seek(position)
            file.write(b"x")
        assert file_sha256(weights) == sha256(weights) != before

    def test_a_touched_or_replaced_file_is_hashed_again(self, weights, hashed):
        file_sha256(weights)
        os.utime(weights, (LONG_AGO, LONG_AGO + 1))
        file_sha256(weights)
        assert len(hashed) == 2
        other = weights.with_name("other")
        other.write_bytes(b"x" * 100_000)
        os.utime(other, (LONG_AGO, LONG_AGO + 1))
        os.replace(other, weights)  # of the same size and time
        assert file_sha256(weights) == sha256(weights)
        assert len(hashed) == 3

    def test_the_hash_of_a_file_that_was_just_written_is_not_cached(self, weights, hashed):
        os.utime(weights)
        file_sha256(weights)
        file_sha256(weights)
        assert len(hashed) == 2

    @pytest.mark.parametrize("damage", [b"", b"{", b"[1]", b'{"file": {}}', b"\xff", None])
    def test_a_damaged_record_is_ignored(self, weights, hashed, cache, damage):
        file_sha256(weights)
        (record,) = cache.glob("*.json")
        content = record.read_bytes()
        record.write_bytes(content.replace(sha256(weights).encode(), b"no hash") if damage is None else damage)
        file_hash.KNOWN.clear()
        assert file_sha256(weights) == sha256(weights)
        assert record.read_bytes() == content
        assert len(hashed) == 2

    def test_of_several_processes_one_hashes_the_file_and_the_others_wait(self, weights, hashed):
        with ThreadPoolExecutor(4) as pool:
            assert set(pool.map(file_sha256, [weights] * 8)) == {sha256(weights)}
        assert len(hashed) == 1


def test_without_a_cache_folder_a_process_reads_a_file_once(weights, hashed, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert file_sha256(weights) == file_sha256(weights) == sha256(weights)
    assert hashed == ["weights"]
    os.utime(weights)  # changed just now, and perhaps again in the same moment
    assert file_sha256(weights) == file_sha256(weights) == sha256(weights)
    assert len(hashed) == 3


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing"):
        file_sha256(tmp_path / "missing")
