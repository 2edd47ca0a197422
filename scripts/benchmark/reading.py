"""Time the reading of clips against each decoder alone, and print a Markdown table.

Usage: ``python scripts/benchmark/reading.py``, or with ``--clips '["a.mp4", "b.mp4"]'`` for clips of your own.
"""

import tempfile
from functools import partial
from pathlib import Path

import av
import torch
from jsonargparse import auto_cli
from measure import hardware, medians, table
from torch import Tensor
from torch.nn.functional import interpolate

from fastvmt_pl.clips import read_clip
from fastvmt_pl.clips.clip import open_clip
from fastvmt_pl.clips.video_writing import write_video

SIZES = ((480, 832), (720, 1280), (1080, 1920))
NUM_FRAMES, FPS = 81, 16.0
GRAINS = (2.0, 0.0)
"""Standard deviation of the noise, of 255. Without any, decoding costs next to nothing, and moving pictures shows."""


def main(clips: list[Path] | None = None, repeats: int = 5) -> None:
    """Print a row a clip: what each side takes, and reading as a multiple of the faster decoder.

    Args:
        clips: Video files; a drifting pattern in the sizes of Wan and of HD if not given.
        repeats: Rounds that count, of which it takes medians.
    """
    with tempfile.TemporaryDirectory() as folder:
        rows = [_row(path, repeats) for path in (clips or _drifting(Path(folder)))]
    print(f"{hardware('cpu')}\n")
    print(table(["clip", "PyAV, ms", "decord, ms", "read_clip, ms", "as a multiple of the faster"], rows))


def _row(path: Path, repeats: int) -> list[str]:
    num_frames = len(open_clip(path).timeline.times)
    sides = {"pyav": partial(by_pyav, path), "read": partial(read_clip, path, num_frames)}
    try:
        by_decord(path)
    except (ImportError, RuntimeError):  # no wheel for this platform, or a file that it cannot read
        rest = {}
    else:
        rest = {"decord": partial(by_decord, path)}
    seconds = medians({**sides, **rest}, repeats, "cpu")
    faster = min(seconds["pyav"], seconds.get("decord", float("inf")))
    cells = [f"{1000 * seconds[name]:.0f}" if name in seconds else "" for name in ("pyav", "decord", "read")]
    return [path.stem, *cells, f"{seconds['read'] / faster:.2f}"]


def by_pyav(path: Path) -> list[object]:
    """Decode all frames to RGB by PyAV alone, with two threads."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type, stream.codec_context.thread_count = "AUTO", 2
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]


def by_decord(path: Path) -> object:
    """Decode all frames to RGB by decord alone, with two threads."""
    import decord

    reader = decord.VideoReader(str(path), num_threads=2)
    return [reader.get_batch([number]).asnumpy() for number in range(len(reader))]


def _drifting(folder: Path) -> list[Path]:
    """Write a smooth random pattern that drifts, in several sizes, with the grain of a camera and without."""
    paths = []
    for grain in GRAINS:
        for height, width in SIZES:
            paths.append(folder / f"{height} x {width}, grain {grain}.mp4")
            write_video(paths[-1], _pattern(height, width, grain), FPS)
    return paths


def _pattern(height: int, width: int, grain: float) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 24, 40, generator=draw)
    picture = 255 * interpolate(coarse, (height, width + 2 * NUM_FRAMES), mode="bicubic")[0]
    frames = torch.empty(NUM_FRAMES, height, width, 3, dtype=torch.uint8)
    for number in range(NUM_FRAMES):
        noise = grain * torch.randn(1, height, width, generator=draw)
        shown = picture[:, :, 2 * number : 2 * number + width] + noise
        frames[number] = shown.clamp(0, 255).to(torch.uint8).permute(1, 2, 0)
    return frames


if __name__ == "__main__":
    auto_cli(main)
