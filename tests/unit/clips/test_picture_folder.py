import numpy as np
import pytest
import torch
from PIL import Image

from fastvmt_pl.clips import ClipError, read_clip


def write(folder, names, size=(6, 8)):
    folder.mkdir(exist_ok=True)
    for level, name in enumerate(names):
        Image.fromarray(np.full((*size, 3), 10 * level, np.uint8)).save(folder / name)
    return folder


def levels(clip):
    return (clip.frames[:, 0, 0, 0] // 10).tolist()


@pytest.mark.parametrize(
    "names",
    [
        [f"{number:05d}.png" for number in range(5)],
        [f"shot2_{number}.png" for number in range(7, 12)],
        [f"{number}.png" for number in range(0, 25, 5)],
    ],
    ids=["DAVIS", "name with another number", "every fifth"],
)
def test_pictures_are_ordered_by_their_numbers(tmp_path, names):
    folder = write(tmp_path / "clip", names)
    (folder / "notes.txt").touch()
    (folder / ".hidden.png").touch()
    clip = read_clip(folder, 5, fps=24.0)
    assert levels(clip) == [0, 1, 2, 3, 4]
    assert clip.fps == pytest.approx(24.0)
    assert clip.name == str(folder)


def test_an_interval_of_pictures_is_in_seconds(tmp_path):
    folder = write(tmp_path / "clip", [f"{number}.png" for number in range(9)])
    assert levels(read_clip(folder, 3, fps=4.0, start=0.5, end=1.75)) == [2, 4, 6]


def test_pictures_are_upright(tmp_path):
    folder = write(tmp_path / "clip", [])
    picture, exif = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(6, 8)), Image.Exif()
    exif[0x0112] = 6  # shown turned clockwise by a quarter
    picture.save(folder / "1.png", exif=exif)
    frame = read_clip(folder, 1, fps=8.0).frames[0, :, :, 0]
    assert torch.equal(frame, torch.arange(48, dtype=torch.uint8).view(6, 8).rot90(-1))


@pytest.mark.parametrize(
    ("names", "named"),
    [
        (["1.png", "2.png", "4.png"], "3"),
        (["1.png", "01.png"], "01.png"),
        (["1.png", "cover.png"], "cover.png"),
        (["left_1.png", "right_2.png"], "left_N.*right_N"),
        ([], "clip"),
    ],
    ids=["missing", "twice", "unnumbered", "two series", "none"],
)
def test_pictures_that_are_not_one_series_are_refused(tmp_path, names, named):
    with pytest.raises(ClipError, match=named):
        read_clip(write(tmp_path / "clip", names), 1, fps=8.0)


def test_a_damaged_picture_is_refused_by_name(tmp_path):
    folder = write(tmp_path / "clip", ["1.png", "2.png"], size=(64, 64))
    whole = (folder / "1.png").read_bytes()
    (folder / "2.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ClipError, match=r"2\.png"):
        read_clip(folder, 2, fps=8.0)


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_pictures_of_16_bits_keep_their_brightness(tmp_path, ending):
    (tmp_path / "clip").mkdir()
    levels = np.array([[0, 30 * 257, 128 * 257, 65535]], np.uint16)
    Image.fromarray(levels).save(tmp_path / "clip" / f"1.{ending}")
    assert read_clip(tmp_path / "clip", 1, fps=8.0).frames[0, 0, :, 0].tolist() == [0, 30, 128, 255]


def test_pictures_whose_range_is_not_known_are_refused(tmp_path):
    (tmp_path / "clip").mkdir()
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "clip" / "1.tif")
    with pytest.raises(ClipError, match=r"1\.tif"):
        read_clip(tmp_path / "clip", 1, fps=8.0)


def test_pictures_of_several_sizes_are_refused(tmp_path):
    folder = write(tmp_path / "clip", ["1.png"])
    Image.new("RGB", (9, 6)).save(folder / "2.png")
    with pytest.raises(ClipError, match=r"8 x 6.*9 x 6"):
        read_clip(folder, 2, fps=8.0)


@pytest.mark.parametrize("fps", [None, 0.0, -1.0, float("nan")])
def test_a_folder_needs_a_frame_rate(tmp_path, fps):
    with pytest.raises(ClipError, match="fps"):
        read_clip(write(tmp_path / "clip", ["1.png"]), 1, fps=fps)
