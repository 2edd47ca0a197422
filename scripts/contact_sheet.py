"""Draw jobs of a sweep: frames of the clip, and to the right frames of the video, a row each.

Usage: ``python scripts/contact_sheet.py SWEEP_FOLDER sheet.png --setting shipped``. Frames are evenly spaced in time.
"""

from pathlib import Path

import torch
from einops import rearrange
from jaxtyping import UInt8
from jsonargparse import auto_cli
from torch import Tensor
from torch.nn.functional import pad

from fastvmt_pl.clips import read_clip
from fastvmt_pl.clips.video_writing import write_picture
from fastvmt_pl.files.names import words

SPACING = 6
"""Pixels between the clip and the video, and between rows."""


def strip(path: Path, num_frames: int, num_shown: int) -> UInt8[Tensor, "height width 3"]:
    """Return frames of a video side by side."""
    frames = read_clip(path, num_frames).frames
    chosen = torch.linspace(0, num_frames - 1, num_shown).round().int().tolist()
    return rearrange(frames[chosen], "f h w rgb -> h (f w) rgb")


def main(
    folder: Path, output: Path, setting: str = "shipped", num_jobs: int = 8, num_frames: int = 17, num_shown: int = 5
) -> None:
    """Draw the first jobs of a setting.

    Args:
        folder: A sweep's folder.
        output: PNG file.
        setting: Name of the setting.
        num_jobs: Number of jobs.
        num_frames: Frames of each video.
        num_shown: Frames that are drawn of each.
    """
    rows = []
    for job in sorted((folder / "jobs").glob(f"{words(setting)}-*"))[:num_jobs]:
        both = [strip(job / f"{name}.mp4", num_frames, num_shown) for name in ("reference", "output")]
        rows += [pad(torch.cat([pad(both[0], (0, 0, 0, SPACING), value=255), both[1]], 1), (0, 0, 0, 0, 0, SPACING))]
    write_picture(output, torch.cat(rows))


if __name__ == "__main__":
    auto_cli(main, as_positional=True)
