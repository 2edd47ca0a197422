"""The toy world: clips of coloured shapes that move over textured backgrounds, with their true trajectories.

The bundled backbone is trained on it. The known trajectories measure motion transfer in pixels.

Axes: ``objects``, ``frames``, ``height``, ``width``, ``rgb``, and ``xy`` for a position in pixels (x to the right,
y downwards, the centre of the top left pixel at 0, 0).
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from torch import Tensor

from fastvmt_pl.errors import UserError

NUM_FRAMES = 17
SIZE = 48
"""Height and width of a frame in pixels."""
FPS = 8.0
RADII = (6.0, 9.0)
"""Smallest and largest radius of an object in pixels."""

Shape = Literal["circle", "square", "triangle", "cross"]
Path = Literal["linear", "arc", "sine", "bounce", "still"]

SHAPES: tuple[Shape, ...] = ("circle", "square", "triangle", "cross")
PATHS: tuple[Path, ...] = ("linear", "arc", "sine", "bounce", "still")
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (255, 38, 38),
    "green": (38, 204, 51),
    "blue": (51, 76, 255),
    "yellow": (255, 230, 26),
    "white": (255, 255, 255),
    "cyan": (26, 217, 230),
    "purple": (153, 51, 204),
    "orange": (255, 140, 26),
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "black": (13, 13, 13),
    "gray": (115, 115, 115),
    "navy": (13, 20, 77),
    "brown": (89, 51, 26),
}
MARGIN = 0.15
"""Distance of paths from the border, as a share of the frame."""


@dataclass(frozen=True)
class Appearance:
    """The colour and shape of an object."""

    colour: str
    shape: Shape


@dataclass(frozen=True)
class ToyClip:
    """A clip of the toy world, with its ground truth.

    Attributes:
        frames: The pictures, ``[frames, height, width, rgb]``.
        prompt: Describes appearance, never motion.
        objects: The appearance of each object, back to front.
        background: Name of the background's colour.
        paths: Kind of path of each object.
        trajectories: Centre of each object in each frame, in pixels, ``[objects, frames, xy]``.
        camera: Displacement of the background since the first frame, in pixels, ``[frames, xy]``.
    """

    frames: UInt8[Tensor, "frames height width 3"]
    prompt: str
    objects: tuple[Appearance, ...]
    background: str
    paths: tuple[Path, ...]
    trajectories: Float[Tensor, "objects frames 2"]
    camera: Float[Tensor, "frames 2"]


def prompt_for(objects: Sequence[Appearance], background: str) -> str:
    """Return the caption of a clip.

    >>> prompt_for([Appearance("red", "circle"), Appearance("blue", "cross")], "navy")
    'a red circle and a blue cross on a navy background'
    """
    names = " and ".join(f"a {item.colour} {item.shape}" for item in objects)
    return f"{names} on a {background} background"


def is_held_out(item: Appearance, background: str) -> bool:
    """Whether training never sees this combination of shape, colour and background.

    Half of the 128 combinations are held out, in a checkerboard. Training sees every pair of two of the three words.
    """
    indices = SHAPES.index(item.shape), list(COLOURS).index(item.colour), list(BACKGROUNDS).index(background)
    return sum(indices) % 2 == 1


def combinations(*, held_out: bool) -> list[tuple[Appearance, str]]:
    """Return all combinations of an object and a background that are held out from training, or all others."""
    return [
        (item, background)
        for background in BACKGROUNDS
        for colour in COLOURS
        for shape in SHAPES
        if is_held_out(item := Appearance(colour, shape), background) == held_out
    ]


class ToyWorld:
    """An endless, indexable sequence of clips that depends only on its seed.

    Args:
        seed: Seed of the clips.
        held_out: Draw appearances that are held out from training, else those that are not.
        num_objects: Objects per clip; ``None`` draws two in a quarter of the clips and one in the others.
        camera: Whether the camera moves; ``None`` moves it in a third of the clips.
        paths: Kinds of path to draw from.

    Raises:
        UserError: If ``num_objects`` is not 1 or 2, or ``paths`` is empty or names an unknown kind.
    """

    def __init__(
        self,
        seed: int = 0,
        *,
        held_out: bool = False,
        num_objects: int | None = None,
        camera: bool | None = None,
        paths: Sequence[Path] = PATHS,
    ) -> None:
        if num_objects not in (None, 1, 2):
            raise UserError(f"num_objects is {num_objects}; a toy clip has 1 or 2 objects, or None to draw it")
        if not paths or not set(paths) <= set(PATHS):
            raise UserError(f"paths is {list(paths)}; give one or more of {', '.join(PATHS)}")
        self.seed = seed
        self.held_out = held_out
        self.num_objects = num_objects
        self.camera = camera
        self.paths = tuple(paths)

    def __getitem__(self, index: int) -> ToyClip:
        draw = random.Random(f"{self.seed}/{index}")
        combos = combinations(held_out=self.held_out)
        first, background = draw.choice(combos)
        objects = [first]
        if self.num_objects == 2 or (self.num_objects is None and draw.random() < 1 / 4):
            objects.append(draw.choice([o for o, place in combos if place == background and o.colour != first.colour]))
        moving_camera = self.camera if self.camera is not None else draw.random() < 1 / 3
        pan = _motion(draw, draw.choice(("linear", "arc", "sine"))) / 2 if moving_camera else torch.zeros(NUM_FRAMES, 2)
        kinds = tuple(draw.choice(self.paths) for _ in objects)
        trajectories: list[Tensor] = []
        for kind in kinds:  # a still object moves in the picture as the background does
            trajectories.append(place(draw, pan if kind == "still" else _motion(draw, kind), trajectories))
        stacked = torch.stack(trajectories)
        frames = render(draw, objects, background, stacked, pan)
        return ToyClip(frames, prompt_for(objects, background), tuple(objects), background, kinds, stacked, pan)


def _motion(draw: random.Random, kind: Path) -> Float[Tensor, "frames 2"]:
    """Draw a path's displacement since the first frame, in pixels; its bounding box fits inside the margins."""
    t = torch.linspace(0, 1, NUM_FRAMES)
    if kind == "arc":
        angles = draw.uniform(0, 2 * math.pi) + draw.choice((-1, 1)) * draw.uniform(math.pi / 2, 3 * math.pi / 2) * t
        track = draw.uniform(8, 15) * torch.stack([angles.cos(), angles.sin()], -1)
    elif kind == "bounce":
        height = draw.uniform(14, 26) * (draw.uniform(1.0, 2.5) * math.pi * t + draw.uniform(0, math.pi)).sin().abs()
        track = torch.stack([draw.choice((-1, 1)) * draw.uniform(8, 30) * t, -height], -1)
    else:
        amplitude = draw.uniform(4, 8) if kind == "sine" else 0.0
        across = amplitude * (2 * math.pi * draw.uniform(0.75, 1.5) * t).sin() * draw.choice((-1, 1))
        along = draw.uniform(14, 33) * t
        angle = draw.uniform(0, 2 * math.pi)
        cos, sin = math.cos(angle), math.sin(angle)
        track = torch.stack([cos * along - sin * across, sin * along + cos * across], -1)
    extent = (track.amax(0) - track.amin(0)).amax()
    track = track * ((1 - 2 * MARGIN) * SIZE / extent).clamp(max=1.0)
    return track - track[:1]


def place(draw: random.Random, motion: Float[Tensor, "frames 2"], others: list[Tensor]) -> Float[Tensor, "frames 2"]:
    """Place a motion inside the margins, away from other objects: the best of four draws."""
    low = MARGIN * (SIZE - 1) - motion.amin(0)
    room = ((1 - 2 * MARGIN) * (SIZE - 1) - (motion.amax(0) - motion.amin(0))).clamp(min=0.0)
    places = [motion + low + room * torch.tensor([draw.random(), draw.random()]) for _ in range(4)]
    if not others:
        return places[0]
    return max(places, key=lambda place: min((place - other).norm(dim=-1).amin() for other in others))


def _signed_distance(shape: Shape, radius: float, offset: Float[Tensor, "*axes 2"]) -> Float[Tensor, "*axes"]:
    """Distance in pixels from the outline of a shape, negative inside; all four shapes have a similar area."""
    x, y = offset.unbind(-1)
    if shape == "circle":
        from_centre: Tensor = offset.norm(dim=-1)
        return from_centre - radius
    if shape == "square":
        return torch.maximum(x.abs(), y.abs()) - 0.9 * radius
    if shape == "triangle":  # equilateral, pointing up, its centroid at the origin
        return torch.maximum(y, x.abs() * math.sqrt(0.75) - y / 2) - 0.65 * radius
    arm, half_width = 1.1 * radius, 0.4 * radius
    bars = torch.maximum(x.abs() - arm, y.abs() - half_width), torch.maximum(y.abs() - arm, x.abs() - half_width)
    return torch.minimum(*bars)


def render(
    draw: random.Random,
    objects: Sequence[Appearance],
    background: str,
    trajectories: Float[Tensor, "objects frames 2"],
    camera: Float[Tensor, "frames 2"],
    radii: tuple[float, float] = RADII,
) -> UInt8[Tensor, "frames height width 3"]:
    """Draw the objects, later ones in front, with anti-aliased edges over a texture that moves with the camera.

    Args:
        draw: Draws texture and sizes.
        objects: The objects.
        background: Name of the background's colour.
        trajectories: Centre of each object in each frame.
        camera: Displacement of the background.
        radii: Smallest and largest radius of an object in pixels.
    """
    axis = torch.arange(SIZE, dtype=torch.float32)
    pixels = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1)
    ground = pixels - rearrange(camera, "frames xy -> frames 1 1 xy")
    texture = torch.zeros(NUM_FRAMES, SIZE, SIZE)
    for _ in range(4):
        angle, wavelength, phase = draw.uniform(0, math.pi), draw.uniform(14, 40), draw.uniform(0, 2 * math.pi)
        direction = torch.tensor([math.cos(angle), math.sin(angle)]) * (2 * math.pi / wavelength)
        texture += (ground @ direction + phase).sin()
    texture *= draw.uniform(30, 45) / texture.abs().amax()
    image = torch.tensor(BACKGROUNDS[background], dtype=torch.float32) + texture[..., None]
    for item, track in zip(objects, trajectories, strict=True):
        offset = pixels - rearrange(track, "frames xy -> frames 1 1 xy")
        coverage = (0.5 - _signed_distance(item.shape, draw.uniform(*radii), offset)).clamp(0, 1)[..., None]
        image = image + coverage * (torch.tensor(COLOURS[item.colour], dtype=torch.float32) - image)
    return image.round().clamp(0, 255).to(torch.uint8)
