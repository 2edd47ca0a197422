"""Read pictures as a viewer shows them: upright, and in sRGB."""

from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import Image, ImageCms, ImageOps
from torch import Tensor

from fastvmt_pl.errors import UserError

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp")
SMALLEST = 16
"""Pixels a side that an image has at least; what is smaller is taken for a mistake."""
UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError, ImageCms.PyCMSError)
"""What :func:`decoded` raises."""


def read_image(path: str | Path) -> UInt8[Tensor, "height width 3"]:
    """Read the image that a video is to begin with.

    It is turned as its EXIF data say, and converted from its colour profile to sRGB.

    Args:
        path: A picture file.

    Raises:
        UserError: If it cannot be read, has several frames or transparent places, or is tiny.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"image {path} is no file; check the path")
    try:
        picture = decoded(path)
    except UNREADABLE as error:
        raise UserError(f"image {path} cannot be used ({error}); give a PNG, JPEG or WebP picture") from error
    height, width = picture.shape[:2]
    if min(height, width) < SMALLEST:
        raise UserError(f"image {path} is {width} x {height}; give one of at least {SMALLEST} pixels a side")
    return torch.from_numpy(picture.copy())


def decoded(path: Path) -> np.ndarray:
    """Return a picture's pixels, ``[height, width, 3]``, 0 to 255.

    Raises:
        OSError: If it is damaged, or no picture.
        ValueError: If it has several frames, transparent places, or numbers whose range is unknown.
    """
    with Image.open(path) as picture:
        if getattr(picture, "n_frames", 1) > 1:
            raise ValueError("it has several frames")
        upright = ImageOps.exif_transpose(picture)
        if upright.has_transparency_data and np.asarray(upright.convert("RGBA"))[..., 3].min() < 255:
            raise ValueError("it is transparent in places; put it on a background")
        return np.asarray(_in_srgb(_in_bytes(upright), picture.info.get("icc_profile")))


def _in_srgb(picture: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert a picture from its colour profile; without one, it is in sRGB."""
    if profile is None or picture.mode not in ("RGB", "CMYK", "L"):
        return picture.convert("RGB")
    given = ImageCms.ImageCmsProfile(BytesIO(profile))
    converted = ImageCms.profileToProfile(picture, given, ImageCms.createProfile("sRGB"), outputMode="RGB")
    assert converted is not None
    return converted


def _in_bytes(picture: Image.Image) -> Image.Image:
    """Return a picture with 8 bits per colour; Pillow itself would clip the brighter values.

    Raises:
        ValueError: If it has floating-point numbers, since their range is unknown.
    """
    if picture.mode == "F":
        raise ValueError("it has floating-point numbers; convert it to 8 bits")
    if picture.mode.startswith("I"):  # 16 bits; from a PNG, in 32-bit integers
        return Image.fromarray((np.asarray(picture).clip(0, 65535) / 257).round().astype(np.uint8))
    if picture.mode in ("RGBA", "RGBX", "P", "PA", "LA"):
        return picture.convert("RGB")
    return picture
