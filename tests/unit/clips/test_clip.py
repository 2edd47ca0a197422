import os
import struct

import av
import pytest
import torch

from fastvmt_pl.clips import Clip, ClipError, TooShortError, read_clip
from fastvmt_pl.clips.video_writing import write_video
from fastvmt_pl.toy import ToyWorld

NUM_FRAMES, FPS = 24, 12.0


def numbered(num_frames, height=32, width=48):
    """Gray frames whose brightness tells their number."""
    levels = 10 * torch.arange(num_frames, dtype=torch.uint8) + 5
    return levels.view(-1, 1, 1, 1).expand(-1, height, width, 3).contiguous()


def numbers(clip):
    return ((clip.frames.float().mean((1, 2, 3)) - 5) / 10).round().int().tolist()


@pytest.fixture
def video(tmp_path):
    write_video(tmp_path / "clip.mp4", numbered(NUM_FRAMES), FPS)
    return tmp_path / "clip.mp4"


class TestReading:
    def test_all_frames_are_read(self, video):
        clip = read_clip(video, NUM_FRAMES)
        assert clip.frames.shape == (NUM_FRAMES, 32, 48, 3)
        assert clip.frames.dtype == torch.uint8
        assert numbers(clip) == list(range(NUM_FRAMES))
        assert clip.fps == pytest.approx(FPS)
        assert clip.name == str(video)

    def test_frames_are_spread_evenly_and_keep_the_speed(self, video):
        clip = read_clip(str(video), 5)
        assert numbers(clip) == [0, 6, 12, 17, 23]
        assert clip.fps == pytest.approx(4 / (23 / FPS))  # five frames last from the first to the last

    def test_an_interval_in_seconds_is_read(self, video):
        clip = read_clip(video, 5, start=0.5, end=1.25)
        assert numbers(clip) == [6, 8, 10, 12, 14]
        assert clip.fps == pytest.approx(FPS / 2)

    def test_an_end_after_the_clip_is_its_end(self, video):
        assert numbers(read_clip(video, 5, start=1.5, end=99.0))[-1] == 23

    def test_a_stride_is_counted_from_the_start(self, video):
        clip = read_clip(video, 5, start=0.25, stride=3)
        assert numbers(clip) == [3, 6, 9, 12, 15]
        assert clip.fps == pytest.approx(FPS / 3)

    def test_frames_are_read_at_a_rate(self, video):
        clip = read_clip(video, 5, rate=4.0)
        assert numbers(clip) == [0, 3, 6, 9, 12]
        assert clip.fps == pytest.approx(4.0)

    def test_one_frame_can_be_read(self, video):
        assert numbers(read_clip(video, 1)) == [0]

    @pytest.mark.parametrize("options", [{}, {"start": 0.5}, {"start": 0.25, "end": 1.5}, {"stride": 2}])
    def test_too_few_frames_are_refused_with_a_number_that_works(self, video, options):
        with pytest.raises(TooShortError) as refused:
            read_clip(video, 29, **options)
        suggested = refused.value.num_frames
        assert suggested % 4 == 1
        assert str(suggested) in str(refused.value)
        assert len(read_clip(video, suggested, **options).frames) == suggested

    def test_a_clip_too_short_for_any_motion_is_refused(self, video):
        for options in ({"start": 1.8}, {"start": 50.0}, {"stride": 12}):
            with pytest.raises(TooShortError, match=r"clip\.mp4"):
                read_clip(video, 5, **options)

    def test_a_clip_of_one_frame_is_refused(self, tmp_path):
        write_video(tmp_path / "one.mp4", numbered(1), FPS)
        with pytest.raises(TooShortError, match=r"one\.mp4"):
            read_clip(tmp_path / "one.mp4", 5)

    @pytest.mark.parametrize("share", [0.9, 0.5, 0.1])
    def test_a_truncated_clip_is_refused(self, tmp_path, share):
        noise = torch.randint(0, 256, (NUM_FRAMES, 64, 64, 3), dtype=torch.uint8)  # so that every frame has a size
        write_video(tmp_path / "clip.mp4", noise, FPS)
        whole = (tmp_path / "clip.mp4").read_bytes()
        (tmp_path / "cut.mp4").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(ClipError, match=r"cut\.mp4"):
            read_clip(tmp_path / "cut.mp4", 17)

    @pytest.mark.parametrize("content", [b"I am no video\n" * 50, b"\x00" * 4096, b"\x00\x00\x00\x18ftypmp42"])
    def test_a_file_that_is_not_a_video_is_refused(self, tmp_path, content):
        path = tmp_path / "notes.mp4"
        path.write_bytes(content)
        with pytest.raises(ClipError, match=r"notes\.mp4"):
            read_clip(path, 5)

    def test_sound_alone_is_refused(self, tmp_path):
        with av.open(str(tmp_path / "sound.mp4"), "w") as container:
            stream = container.add_stream("aac", rate=16000)
            frame = av.AudioFrame(format="fltp", layout="mono", samples=1024)
            frame.sample_rate = 16000
            frame.planes[0].update(bytes(4096))
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
        with pytest.raises(ClipError, match=r"sound\.mp4"):
            read_clip(tmp_path / "sound.mp4", 5)


def test_missing_empty_and_folder_are_refused_by_name(tmp_path):
    (tmp_path / "empty.mp4").touch()
    os.mkfifo(tmp_path / "pipe.mp4")
    for name in ("no.mp4", "", "empty.mp4", "pipe.mp4"):
        with pytest.raises(ClipError, match=str(tmp_path / name)) as refused:
            read_clip(tmp_path / name, 5)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("stride", [0, -2])
def test_an_impossible_stride_is_refused(video, stride):
    with pytest.raises(ClipError, match="stride"):
        read_clip(video, 5, stride=stride)


def turned_on_its_side(path):
    """Write into an mp4's track header that its frames are shown turned by 90 degrees, as telephones do."""
    data = bytearray(path.read_bytes())
    matrix = data.index(b"tkhd") + 44
    height = struct.unpack(">I", data[matrix + 40 : matrix + 44])[0]
    data[matrix : matrix + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, height, 0, 1 << 30)
    path.write_bytes(data)


def test_clips_of_phones_are_upright(tmp_path):
    frames = torch.zeros(5, 32, 64, 3, dtype=torch.uint8)
    frames[:, :, :16] = 250  # the left edge, which a quarter turn clockwise makes the top one
    write_video(tmp_path / "clip.mp4", frames, 8.0)
    turned_on_its_side(tmp_path / "clip.mp4")
    found = read_clip(tmp_path / "clip.mp4", 5).frames
    assert found.shape == (5, 64, 32, 3)
    assert found[:, :12].float().mean() > 200
    assert found[:, 20:].float().mean() < 50


@pytest.mark.parametrize("indices", [{}, {"start": 0.5, "stride": 3}], ids=["all", "some"])
def test_decord_makes_the_same_pictures(tmp_path, indices):
    pytest.importorskip("decord")
    frames = ToyWorld(0)[0].frames.repeat_interleave(2, 1).repeat_interleave(2, 2)  # decord cannot read 48 x 48
    write_video(tmp_path / "toy.mp4", frames, 8.0)
    by_pyav, by_decord = (read_clip(tmp_path / "toy.mp4", 5, **indices, decoder=name) for name in ("pyav", "decord"))
    assert by_pyav.fps == by_decord.fps
    assert (by_pyav.frames.int() - by_decord.frames.int()).abs().float().mean() < 2  # two conversions to RGB


def test_decord_refuses_files_that_it_would_show_wrong(tmp_path):
    pytest.importorskip("decord")
    write_video(tmp_path / "clip.mp4", torch.zeros(5, 96, 128, 3, dtype=torch.uint8), 8.0)
    turned_on_its_side(tmp_path / "clip.mp4")
    with pytest.raises(ClipError, match=r"clip.mp4.*pyav"):
        read_clip(tmp_path / "clip.mp4", 5, decoder="decord")


def test_a_clip_that_fits_is_only_scaled():
    frames = torch.randint(0, 256, (2, 6, 8, 3), dtype=torch.uint8)
    video = Clip(frames, 8.0, "noise").to_video((6, 8))
    torch.testing.assert_close(video, (frames.float() / 127.5 - 1).permute(3, 0, 1, 2)[None])


@pytest.mark.parametrize("size", [(48, 48), (32, 80), (80, 32), (16, 16), (64, 96)])
@pytest.mark.parametrize("old", [(37, 53), (53, 37), (48, 48), (7, 99)])
def test_any_clip_takes_any_size_within_the_range(old, size):
    frames = torch.randint(0, 256, (3, *old, 3), dtype=torch.uint8)
    video = Clip(frames, 8.0, "noise").to_video(size)
    assert video.shape == (1, 3, 3, *size)
    assert -1 <= video.min() <= video.max() <= 1


@pytest.mark.parametrize("old", [(60, 90), (90, 60), (61, 91)])
def test_the_centre_is_kept_with_its_aspect_ratio(old):
    """A disc in the middle stays a disc in the middle."""
    y, x = torch.meshgrid(*(torch.arange(n) - (n - 1) / 2 for n in old), indexing="ij")
    disc = ((y**2 + x**2) < 20**2).to(torch.uint8) * 255
    video = Clip(disc[None, :, :, None].expand(1, -1, -1, 3).contiguous(), 8.0, "disc").to_video((48, 48))
    bright = (video[0, 0, 0] > 0).nonzero().float()
    height, width = (bright.amax(0) - bright.amin(0) + 1).tolist()
    assert abs(height - width) <= 1
    assert height == pytest.approx(40 * 48 / min(old), abs=1.5)
    torch.testing.assert_close(bright.mean(0), torch.tensor([23.5, 23.5]), atol=0.6, rtol=0)
