import pytest

from fastvmt_pl.files import written_whole


def write_half(path, error):
    with written_whole(path) as temporary:
        temporary.write_text("half of it")
        raise error


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_file_leaves_nothing_behind(tmp_path, error):
    with pytest.raises(error):
        write_half(tmp_path / "results" / "file.txt", error)
    assert list((tmp_path / "results").iterdir()) == []


def test_an_interrupted_file_keeps_the_old_one(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError):
        write_half(path, RuntimeError)
    assert path.read_text() == "old"
    with written_whole(path) as temporary:
        assert temporary.suffix == path.suffix  # writers choose a format by it
        temporary.write_text("new")
    assert [p.name for p in tmp_path.iterdir()] == ["file.txt"]
    assert path.read_text() == "new"
