"""Boxes given by users: x0, y0, x1, y1 in pixels."""

import math
from collections.abc import Sequence
from pathlib import Path

from fastvmt_pl.errors import UserError

Box = tuple[float, float, float, float]


def read_numbers(given: str | Path | Sequence[float]) -> tuple[float, ...] | None:
    """Return the numbers in a text or a sequence, or ``None`` if it holds anything else."""
    try:
        return tuple(float(each) for each in (str(given).split(",") if isinstance(given, str | Path) else given))
    except ValueError:
        return None


def as_box(numbers: Sequence[float]) -> Box | None:
    """Return four numbers as a box, or ``None`` if they are not a box with a finite, positive area."""
    if len(numbers) != 4 or not all(map(math.isfinite, numbers)):
        return None
    left, top, right, bottom = numbers
    return (left, top, right, bottom) if left < right and top < bottom else None


def check_inside(name: str, box: Sequence[float], shape: Sequence[int]) -> None:
    """Raise ``UserError`` if a box is not inside a frame.

    Args:
        name: The setting that gave the box.
        box: The box in pixels.
        shape: Height and width of the frame in pixels.
    """
    if box[0] < 0 or box[1] < 0 or box[2] > shape[1] or box[3] > shape[0]:
        raise UserError(f"{name} {box} is outside the frame of {shape[1]} x {shape[0]}; give a box inside it")
