import errno
import os

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from fastvmt_pl.clips.video_writing import write_video
from fastvmt_pl.files.atomic import UnwritableError, naming, written_whole
from fastvmt_pl.files.checkpoint_io import AtomicCheckpointIO

BIG = torch.randint(0, 256, (40, 64, 64, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def write_half(path, error):
    with written_whole(path) as temporary:
        temporary.write_text("half of it")
        raise error


def write_tensors(path):
    with written_whole(path) as temporary:
        save_file({"latents": BIG}, temporary)


def write_picture(path):
    with written_whole(path) as temporary:
        Image.fromarray(BIG[0].repeat(4, 4, 1).numpy()).save(temporary)


def write_text(path):
    with written_whole(path) as temporary:
        temporary.write_text("x" * 100_000)


WRITERS = {
    "latents.safetensors": write_tensors,
    "flow.png": write_picture,
    "metrics.json": write_text,
    "output.mp4": lambda path: write_video(path, BIG, 8.0),
    "last.ckpt": lambda path: AtomicCheckpointIO().save_checkpoint({"latents": BIG}, path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_an_error_on_a_full_disk_names_the_file_that_was_wanted(tmp_path, name, full_disk):
    path = tmp_path / "run" / name
    with pytest.raises(UnwritableError) as raised, full_disk():
        WRITERS[name](path)
    assert raised.value.errno == errno.EFBIG
    assert str(path) in str(raised.value)
    assert ".writing-" not in str(raised.value)
    assert list(path.parent.iterdir()) == []


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UnwritableError, match=r"file/file\.txt"):
        write_text(tmp_path / "file" / "file.txt")


def test_the_innermost_name_wins_and_errors_of_reading_pass_through(tmp_path, full_disk):
    with pytest.raises(UnwritableError, match=r"inner\.json"), naming(tmp_path), full_disk():
        write_text(tmp_path / "inner.json")
    with pytest.raises(UnwritableError, match=str(tmp_path)), naming(tmp_path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(FileNotFoundError, match="missing"), written_whole(tmp_path / "copy"):
        (tmp_path / "missing").read_bytes()


def test_an_error_in_a_folder_that_is_written_whole_names_the_folder(tmp_path, full_disk):
    with pytest.raises(UnwritableError) as raised, full_disk(), written_whole(tmp_path / "lora") as folder:
        write_tensors(folder / "weights.safetensors")
    assert str(tmp_path / "lora") in str(raised.value)
    assert ".writing-" not in str(raised.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_interrupted_write_leaves_no_file(tmp_path, error):
    with pytest.raises(error):
        write_half(tmp_path / "results" / "file.txt", error)
    assert list((tmp_path / "results").iterdir()) == []


def test_an_interrupted_write_keeps_the_old_file(tmp_path):
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
