from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from fastvmt_pl.clips import read_clip
from fastvmt_pl.clips.decoding.picture import matrix_of
from fastvmt_pl.clips.video_writing import MIN_SIDE, enlarge, flow_picture, side_by_side, write_picture, write_video
from fastvmt_pl.files.atomic import UnwritableError
from fastvmt_pl.toy.toy_jobs import toy_jobs


def decoded(path):
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return float(stream.average_rate), np.stack([f.to_ndarray(format="rgb24") for f in container.decode(stream)])


@pytest.mark.parametrize("size", [(32, 48), (33, 47), (33, 48), (32, 47), (1, 1)])
def test_any_size_is_written_with_an_odd_edge_doubled(tmp_path, size):
    frames = torch.full((6, *size, 3), 200, dtype=torch.uint8)
    write_video(tmp_path / "new" / "video.mp4", frames, 6.0)
    fps, found = decoded(tmp_path / "new" / "video.mp4")
    assert fps == 6
    assert found.shape == (6, *(n + n % 2 for n in size), 3)
    assert abs(found.astype(int) - 200).max() < 6


def test_a_video_keeps_its_pictures(tmp_path, toy_clips):
    write_video(tmp_path / "toy.mp4", enlarge(toy_clips[0].frames), 8.0)
    _, found = decoded(tmp_path / "toy.mp4")
    assert np.abs(found.astype(int) - enlarge(toy_clips[0].frames).numpy()).mean() < 4


def test_the_same_pictures_make_the_same_file(tmp_path):
    frames = toy_jobs(15, "tuning")[14].clip.frames  # of which x264 with its default settings makes several
    contents = set()
    for number in range(12):
        write_video(tmp_path / f"{number}.mp4", frames, 8.0)
        contents.add((tmp_path / f"{number}.mp4").read_bytes())
        torch.rand(3, 48 * (number + 1), 48)  # the contents of memory change meanwhile
    assert len(contents) == 1


def test_a_disk_that_fills_up_leaves_no_video(tmp_path, full_disk):
    noise = torch.randint(0, 256, (40, 64, 64, 3), dtype=torch.uint8)
    with pytest.raises(UnwritableError), full_disk():
        write_video(tmp_path / "videos" / "video.mp4", noise, 8.0)
    assert list((tmp_path / "videos").iterdir()) == []


def test_videos_side_by_side_have_white_gaps():
    videos = [torch.full((2, 10, 48, 3), value, dtype=torch.uint8) for value in (10, 20, 30)]
    row = side_by_side(videos)[0, 0, :, 0].tolist()
    assert row == [10] * 48 + [255] * 2 + [20] * 48 + [255] * 2 + [30] * 48
    assert torch.equal(side_by_side(videos[:1]), videos[0])


@pytest.mark.parametrize(
    ("size", "factor"), [((48, 48), 5), ((100, 60), 4), ((240, 416), 1), ((480, 832), 1), ((239, 500), 1)]
)
def test_small_videos_are_enlarged_in_whole_multiples(size, factor):
    frames = torch.randint(0, 256, (1, *size, 3), dtype=torch.uint8)
    large = enlarge(frames)
    assert large.shape == (1, size[0] * factor, size[1] * factor, 3)
    assert min(large.shape[1:3]) > MIN_SIDE / 2
    assert torch.equal(large[:, ::factor, ::factor], frames)
    assert torch.equal(large[:, factor - 1 :: factor, factor - 1 :: factor], frames)


@pytest.mark.parametrize("num_pairs", [1, 4, 5])
def test_flow_is_drawn_next_to_its_frames(num_pairs):
    frames = torch.randint(0, 256, (num_pairs, 48, 48, 3), dtype=torch.uint8)
    picture = flow_picture(torch.randn(num_pairs, 144, 2), frames, (12, 12))
    rows = -(-num_pairs // 4)
    scale = max(1, MIN_SIDE // min(rows * 48, 4 * 96))
    assert picture.shape == (rows * 48 * scale, 4 * 96 * scale, 3)
    assert torch.equal(picture[: 48 * scale : scale, : 48 * scale : scale], frames[0])


def test_directions_have_hues_and_no_motion_is_white():
    towards = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, -1.0], [0.0, 0.0]])[:, None]  # right, down, left, none
    picture = flow_picture(towards, torch.zeros(4, 240, 240, 3, dtype=torch.uint8), (1, 1))
    right, down, left, none = (picture[120, 480 * pair + 360].int().tolist() for pair in range(4))
    assert right == [255, 0, 0]
    assert down[1] > down[2] > 100 > down[0] or down[1] == 255 > down[2]
    assert left[0] == 0
    assert min(left[1:]) > 240
    assert none == [255, 255, 255]


def test_zero_flow_can_be_drawn():
    picture = flow_picture(torch.zeros(1, 4, 2), torch.zeros(1, 240, 240, 3, dtype=torch.uint8), (2, 2))
    assert (picture[:, 240:480] == 255).all()


def test_a_picture_is_read_back(tmp_path):
    picture = torch.randint(0, 256, (7, 9, 3), dtype=torch.uint8)
    write_picture(tmp_path / "new" / "picture.png", picture)
    assert np.array_equal(np.asarray(Image.open(tmp_path / "new" / "picture.png")), picture.numpy())


@pytest.mark.parametrize("name", ["run:1", "a::b", "a%03d", "-x", "two words", "ü赤🐼", "file:x", "[1]", "a?b#c"])
def test_every_legal_name_of_a_folder_and_a_file_works(tmp_path, monkeypatch, toy_clips, name):
    monkeypatch.chdir(tmp_path)  # a relative path, as users give it
    path = Path(name) / f"{name}.mp4"
    write_video(path, toy_clips[0].frames, 8.0)
    write_picture(path.with_suffix(".png"), toy_clips[0].frames[0])
    assert read_clip(path, 5).frames.shape == toy_clips[0].frames.shape
    assert {file.name for file in (tmp_path / name).iterdir()} == {f"{name}.mp4", f"{name}.png"}


@pytest.mark.parametrize("size", [(576, 1278), (578, 64), (64, 1280), (480, 832)])
def test_an_untagged_video_is_assumed_to_have_the_matrix_that_is_written(tmp_path, size):
    """The rule is written in the core and in the process that decodes, which imports nothing of the package."""
    frames = torch.tensor([200, 60, 20], dtype=torch.uint8).expand(2, *size, 3).contiguous()
    write_video(tmp_path / "named.mp4", frames, 8.0)
    with av.open(str(tmp_path / "named.mp4")) as container:
        frame = next(container.decode(video=0))
    named = matrix_of(frame)
    frame.colorspace = 2  # unspecified
    assert matrix_of(frame) == named
