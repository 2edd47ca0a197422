"""Folders of numbered pictures, such as DAVIS and the image sequences of editors."""

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from fastvmt_pl.clips.image import ENDINGS, UNREADABLE, decoded
from fastvmt_pl.clips.timeline import Timeline
from fastvmt_pl.clips.video_reader import ClipError


def find_pictures(folder: Path) -> list[Path]:
    """Return the pictures of a folder, without hidden files, ordered by the last number in their names.

    Raises:
        ClipError: If a picture has no number, or a number is missing or repeated.
    """
    numbered, series = dict[int, Path](), set[tuple[str, str]]()
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in ENDINGS or path.name.startswith(".") or not path.is_file():
            continue
        found = re.fullmatch(r"(.*?)(\d+)(\D*)", path.stem)
        if found is None:
            raise ClipError(f"clip {folder} has a picture without a number, {path.name}; number it, or move it away")
        number = int(found[2])
        if number in numbered:
            twice = f"{numbered[number].name} and {path.name}"
            raise ClipError(f"clip {folder} has two pictures of one number, {twice}; move one of them away")
        numbered[number] = path
        series.add((found[1], found[3]))
    if len(series) > 1:
        names = " and ".join(f"{before}N{after}" for before, after in sorted(series)[:2])
        raise ClipError(f"clip {folder} has pictures of several series, {names}; give each a folder")
    numbers = sorted(numbered)
    step = numbers[1] - numbers[0] if len(numbers) > 1 else 1
    for earlier, later in pairwise(numbers):
        if later != earlier + step:
            raise ClipError(f"clip {folder} has no picture {earlier + step}; get it, or number the pictures again")
    return [numbered[number] for number in numbers]


class PictureFolder:
    """A clip of numbered pictures.

    Args:
        path: The folder.
        fps: Frames per second.

    Attributes:
        timeline: Time at which each picture is shown.

    Raises:
        ClipError: If the folder has no pictures, or their numbers have gaps.
    """

    def __init__(self, path: Path, fps: float) -> None:
        self.path, self.pictures = path, find_pictures(path)
        if not self.pictures:
            raise ClipError(f"clip {path} is a folder without pictures; give a video file, or numbered pictures")
        self.timeline = Timeline.regular(len(self.pictures), fps)

    def read(self, indices: Sequence[int]) -> UInt8[Tensor, "frames height width 3"]:
        """Return pictures by their index, upright and in sRGB.

        Raises:
            ClipError: If one cannot be read, or has another size than the first.
        """
        read = {index: self._read(self.pictures[index]) for index in dict.fromkeys(indices)}
        first = indices[0]
        for index, picture in read.items():
            if picture.shape != read[first].shape:
                sizes = " and ".join(
                    f"{self.pictures[i].name} of {read[i].shape[1]} x {read[i].shape[0]}" for i in (first, index)
                )
                raise ClipError(f"clip {self.path} has pictures of different sizes, {sizes}; bring them to one")
        return torch.from_numpy(np.stack([read[index] for index in indices]))

    def _read(self, path: Path) -> np.ndarray:
        try:
            return decoded(path)
        except UNREADABLE as error:
            raise ClipError(f"clip {self.path} has a picture that cannot be used, {path.name} ({error})") from error
