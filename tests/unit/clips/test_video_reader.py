import os
import random
import signal
import struct
import threading
import time
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from fastvmt_pl.clips import ClipError, read_clip
from fastvmt_pl.clips.decoder_process import TIMEOUT, DecoderProcess
from fastvmt_pl.clips.decoding.video_file import VideoFile
from fastvmt_pl.clips.video_reader import DECODER, ClipReader
from fastvmt_pl.clips.video_writing import enlarge, write_video
from fastvmt_pl.errors import UserError
from fastvmt_pl.toy import ToyWorld

NUM_FRAMES = 17


@pytest.fixture(scope="module")
def frames():
    return ToyWorld(0)[0].frames.repeat_interleave(2, 1).repeat_interleave(2, 2)  # decord cannot read 48 x 48


@pytest.fixture(scope="module")
def clips(frames, tmp_path_factory):
    """One clip in several containers."""
    folder = tmp_path_factory.mktemp("clips")
    write_video(folder / "toy.mp4", ToyWorld(0)[0].frames, 8.0)
    write_video(folder / "large.mp4", frames, 8.0)
    encode(folder / "indexed.mkv", "libx264", frames, g="6")
    encode(folder / "old.avi", "mpeg4", frames)
    encode(folder / "broadcast.ts", "libx264", frames)
    return {path.name: path for path in folder.iterdir()}


def encode(path, codec, frames, **options):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, 8, options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames.numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))


@pytest.fixture
def pipe(tmp_path):
    """A clip that never comes: opening it blocks for good."""
    os.mkfifo(tmp_path / "pipe.mp4")
    return tmp_path / "pipe.mp4"


def here(path, indices):
    return {place: make() for place, make in VideoFile(str(path)).pictures(indices, "pyav")}


@pytest.mark.parametrize("indices", [list(range(NUM_FRAMES)), [0, 4, 8, 12, 16], [5], [7, 8, 16]])
def test_frames_equal_those_decoded_in_this_process(clips, indices):
    for path in clips.values():
        reader, expected = ClipReader(path), here(path, indices)
        assert (len(reader.timeline.times), reader.timeline.period) == (NUM_FRAMES, 1 / 8)
        assert torch.equal(reader.read(indices), torch.from_numpy(np.stack([expected[i] for i in range(len(indices))])))


def test_decoding_reports_progress(clips):
    """Also where it makes no pictures, so that it is not stopped on its way to a late frame."""
    steps = []
    video = VideoFile(str(clips["large.mp4"]), lambda: steps.append(len(steps)))
    assert len(steps) >= NUM_FRAMES
    steps.clear()
    next(video.pictures([16], "pyav"))
    assert len(steps) == NUM_FRAMES


def test_frames_can_be_read_in_any_order_and_repeatedly(clips):
    whole = ClipReader(clips["large.mp4"]).read(list(range(NUM_FRAMES)))
    assert torch.equal(ClipReader(clips["large.mp4"]).read([9, 2, 2, 9, 0]), whole[[9, 2, 2, 9, 0]])


@pytest.mark.parametrize("ending", ["mp4", "mkv", "ts"])
def test_a_frame_is_the_same_alone_as_among_all(tmp_path, ending):
    """In open groups of pictures, what is stored behind a key frame is shown before it."""
    frames = enlarge(torch.arange(0, 240, 4, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 8, 8, 3))[:, :64, :64]
    path = tmp_path / f"open.{ending}"
    encode(path, "libx264", frames.contiguous(), **{"x264-params": "open-gop=1:keyint=10:bframes=3"})
    whole = ClipReader(path).read(list(range(60)))
    assert (whole.float().mean((1, 2, 3)) - frames.float().mean((1, 2, 3))).abs().max() < 3
    for number in (9, 10, 11, 35, 59):
        assert torch.equal(ClipReader(path).read([number])[0], whole[number])


def scratch(source, path, number):
    """Invert the second half of a stored frame, which its decoder then patches up from other frames."""
    data = bytearray(source.read_bytes())
    with av.open(str(source)) as container:
        packet = next(packet for packet in container.demux(video=0) if packet.pts * packet.time_base * 8 == number)
    middle, end = packet.pos + packet.size // 2, packet.pos + packet.size
    data[middle:end] = bytes(255 - byte for byte in data[middle:end])
    path.write_bytes(data)


def test_a_damaged_frame_is_refused_and_those_before_it_are_not(clips, tmp_path):
    path = tmp_path / "scratched.mp4"
    scratch(clips["large.mp4"], path, number=12)
    reader = ClipReader(path)
    assert len(reader.read([0, 4])) == 2
    with pytest.raises(ClipError, match=r"scratched\.mp4 .*frame \d+"):
        reader.read([0, 16])


def test_a_clip_with_less_than_its_container_states_is_refused(clips, tmp_path):
    data = clips["indexed.mkv"].read_bytes()
    (tmp_path / "cut.mkv").write_bytes(data[: int(0.7 * len(data))])
    with pytest.raises(ClipError, match=r"cut\.mkv"):
        ClipReader(tmp_path / "cut.mkv")
    data = bytearray(clips["large.mp4"].read_bytes())
    entry = data.index(b"stsc") + 12  # first chunk, frames a chunk
    assert struct.unpack(">2I", data[entry : entry + 8]) == (1, NUM_FRAMES)
    data[entry + 4 : entry + 8] = struct.pack(">I", NUM_FRAMES - 4)
    (tmp_path / "fewer.mp4").write_bytes(data)
    with pytest.raises(ClipError, match=r"fewer\.mp4 .*13 of 17"):
        ClipReader(tmp_path / "fewer.mp4")


def test_a_clip_trimmed_by_its_edit_list_is_whole(clips, tmp_path):
    """Telephones keep the frames that were trimmed away, and only tell players to leave them out."""
    data = bytearray(clips["large.mp4"].read_bytes())
    length = data.index(b"elst") + 12
    data[length : length + 4] = struct.pack(">I", 1000)  # milliseconds
    (tmp_path / "trimmed.mp4").write_bytes(data)
    reader, whole = ClipReader(tmp_path / "trimmed.mp4"), ClipReader(clips["large.mp4"])
    assert 8 <= len(reader.timeline.times) <= 9
    difference = reader.read([0, 4, 7]).int() - whole.read([0, 4, 7]).int()
    assert difference.abs().float().mean() < 2  # by PyAV and by decord


def test_a_clip_whose_beginning_was_trimmed_away_needs_no_key_frame_there(frames, tmp_path):
    encode(tmp_path / "whole.mp4", "libx264", frames, g="6", bf="0")
    data = bytearray((tmp_path / "whole.mp4").read_bytes())
    edit = data.index(b"elst") + 12  # milliseconds that are shown, and where they begin in units of 1 / 16384 s
    assert struct.unpack(">Ii", data[edit : edit + 8]) == (2125, 0)
    data[edit : edit + 8] = struct.pack(">Ii", 13 * 125, 4 * 2048)
    (tmp_path / "trimmed.mp4").write_bytes(data)
    reader = ClipReader(tmp_path / "trimmed.mp4")
    assert len(reader.timeline.times) == NUM_FRAMES - 4
    assert torch.equal(reader.read([0, 1, 12]), ClipReader(tmp_path / "whole.mp4").read([4, 5, 16]))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("list.mp4", "ffconcat version 1.0\nfile 'large.mp4'\n"),
        ("list.m3u8", "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:2.125,\nbroadcast.ts\n#EXT-X-ENDLIST\n"),
        ("prompts.txt", "hello world\n" * 100),
    ],
    ids=["concat", "HLS", "text"],
)
def test_lists_of_files_and_texts_are_refused(clips, name, content):
    path = clips["large.mp4"].parent / name
    path.write_text(content)
    with pytest.raises(ClipError, match=name):
        ClipReader(path)
    path.unlink()


def test_a_stream_that_begins_in_the_middle_is_read_from_its_first_key_frame(frames, tmp_path):
    encode(tmp_path / "whole.ts", "libx264", frames, g="4", bf="0")
    with av.open(str(tmp_path / "whole.ts")) as whole, av.open(str(tmp_path / "cut.ts"), "w") as container:
        stream = container.add_stream_from_template(whole.streams.video[0])
        for number, packet in enumerate(whole.demux(video=0)):
            if packet.size and number >= 2:
                packet.stream = stream
                container.mux(packet)
    found = ClipReader(tmp_path / "cut.ts")
    assert len(found.timeline.times) == NUM_FRAMES - 4
    assert torch.equal(found.read([0, 5]), ClipReader(tmp_path / "whole.ts").read([4, 9]))


def test_joined_streams_are_refused(clips, tmp_path):
    (tmp_path / "joined.ts").write_bytes(2 * clips["broadcast.ts"].read_bytes())
    with pytest.raises(ClipError, match=r"joined\.ts"):
        ClipReader(tmp_path / "joined.ts")


def test_a_fragmented_clip_lasts_as_long_as_its_frames(frames, tmp_path):
    options = {"movflags": "dash+frag_every_frame+global_sidx"}
    with av.open(str(tmp_path / "fragments.mp4"), "w", options=options) as container:
        stream = container.add_stream("libx264", 8)
        stream.height, stream.width, stream.pix_fmt = *frames.shape[1:3], "yuv420p"
        for frame in frames.numpy():
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    assert ClipReader(tmp_path / "fragments.mp4").timeline.end == pytest.approx(NUM_FRAMES / 8)


def mutated(data, kind, draw):
    """Damage a file's content."""
    data, place = bytearray(data), draw.randrange(len(data))
    length = min(draw.randrange(1, 300), len(data) - place)
    if kind == "cut":
        del data[place:]
    elif kind == "hole":
        del data[place : place + length]
    elif kind == "doubled":
        data[place:place] = data[place : place + length]
    elif kind == "zeros":
        data[place : place + length] = bytes(length)
    elif kind == "noise":
        data[place : place + length] = draw.randbytes(length)
    elif kind == "number":  # a size, a count, a time or an offset
        place = draw.randrange(min(len(data) - 4, 1500))
        number = draw.choice([0, 1, 1000000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF])
        data[place : place + 4] = number.to_bytes(4, "big")
    else:
        for _ in range(1 if kind == "bit" else 20):
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    return bytes(data)


KINDS = ("cut", "hole", "doubled", "zeros", "noise", "number", "bit", "bits")


@pytest.mark.parametrize("name", ["toy.mp4", "large.mp4", "indexed.mkv", "old.avi"])
def test_a_damaged_clip_is_read_completely_or_refused_by_name(clips, tmp_path, monkeypatch, name):
    monkeypatch.setenv(TIMEOUT, "5")
    draw, content, frames_read = random.Random(name), clips[name].read_bytes(), []
    for number in range(8 * len(KINDS)):
        path = tmp_path / f"{number}-{name}"
        path.write_bytes(mutated(content, KINDS[number % len(KINDS)], draw))
        try:
            frames_read.append(read_clip(path, 13).frames)
        except ClipError as error:
            if not str(error).startswith(f"clip {path} "):
                raise
    assert 0 < len(frames_read) < 8 * len(KINDS)  # some damage is to what no frame needs
    assert all(len(frames) == 13 for frames in frames_read)


class TestProcess:
    def test_a_relative_path_is_relative_to_where_this_process_is(self, clips, monkeypatch):
        assert len(ClipReader(clips["toy.mp4"]).timeline.times) == NUM_FRAMES
        monkeypatch.chdir(clips["toy.mp4"].parent)
        assert len(ClipReader(Path("toy.mp4")).timeline.times) == NUM_FRAMES

    def test_a_decoder_that_was_killed_is_started_again(self, clips):
        first = ClipReader(clips["toy.mp4"]).read([0])
        before = DECODER.process.popen
        before.kill()
        assert torch.equal(ClipReader(clips["toy.mp4"]).read([0]), first)
        assert DECODER.process.popen is not before

    def test_a_decoder_that_hangs_does_not_affect_the_next_clip(self, clips, monkeypatch):
        first = ClipReader(clips["toy.mp4"]).read([0])
        monkeypatch.setenv(TIMEOUT, "1")
        os.kill(DECODER.process.popen.pid, signal.SIGSTOP)
        assert torch.equal(ClipReader(clips["toy.mp4"]).read([0]), first)

    def test_a_clip_that_hangs_is_refused_in_time(self, clips, pipe, monkeypatch):
        DECODER.stop()
        monkeypatch.setenv(TIMEOUT, "0.5")
        with pytest.raises(ClipError, match=rf"pipe\.mp4 .*0\.5 seconds.*{TIMEOUT}"):
            ClipReader(pipe)
        assert len(ClipReader(clips["toy.mp4"]).timeline.times) == NUM_FRAMES

    def test_a_clip_that_crashes_the_decoder_is_refused(self, clips, pipe):
        def crash():
            for _ in range(3000):
                if DECODER.process is not None:
                    break
                time.sleep(0.01)
            os.kill(DECODER.process.popen.pid, signal.SIGSEGV)

        DECODER.stop()
        thread = threading.Thread(target=crash)
        thread.start()
        with pytest.raises(ClipError, match=r"pipe\.mp4 .*SIGSEGV"):
            ClipReader(pipe)
        thread.join()
        assert len(ClipReader(clips["toy.mp4"]).timeline.times) == NUM_FRAMES

    def test_a_decoder_ends_with_the_process_that_started_it(self):
        process = DecoderProcess()
        process.popen.stdin.close()  # as the end of a process does, however it comes
        assert process.popen.wait(10) == 0
        process.stop()

    def test_a_fork_has_a_decoder_of_its_own(self, clips):
        reader = ClipReader(clips["toy.mp4"])
        theirs = DECODER.process.popen.pid
        child = os.fork()
        if child == 0:
            try:
                ClipReader(clips["toy.mp4"])
            finally:
                os._exit(DECODER.process.popen.pid == theirs)
        assert os.waitpid(child, 0)[1] == 0
        assert len(reader.read([0, 1])) == 2
        assert DECODER.process.popen.pid == theirs

    @pytest.mark.parametrize("value", ["soon", "0", "-3", "inf", "nan"])
    def test_an_impossible_timeout_is_refused(self, clips, monkeypatch, value):
        monkeypatch.setenv(TIMEOUT, value)
        with pytest.raises(UserError, match=f"{TIMEOUT}.*{value}"):
            ClipReader(clips["toy.mp4"])

    def test_a_decoder_that_does_not_start_is_not_an_error_of_the_clip(self, clips, tmp_path, monkeypatch):
        (tmp_path / "av.py").write_text("raise ImportError('no FFmpeg here')")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        DECODER.stop()
        with pytest.raises(RuntimeError, match="no FFmpeg here"):
            ClipReader(clips["toy.mp4"])
