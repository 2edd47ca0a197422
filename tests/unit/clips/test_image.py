from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms, ImageOps

from fastvmt_pl.clips import read_image
from fastvmt_pl.errors import UserError

PIXELS = np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)


@pytest.fixture
def save(tmp_path):
    """Saves a picture and returns its path."""

    def write(picture, name="image.png", **options):
        picture.save(tmp_path / name, **options)
        return tmp_path / name

    return write


def test_pixels_come_as_they_are(save):
    assert torch.equal(read_image(save(Image.fromarray(PIXELS))), torch.from_numpy(PIXELS))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_upright(save, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(Image.fromarray(PIXELS), exif=exif)
    with Image.open(path) as picture:
        assert torch.equal(read_image(path), torch.from_numpy(np.array(ImageOps.exif_transpose(picture))))


def test_colours_are_converted_from_the_pictures_profile(save):
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    swapped = srgb.replace(b"rXYZ", b"swap").replace(b"bXYZ", b"rXYZ").replace(b"swap", b"bXYZ")  # its red is blue
    for profile, red_is_in in ((srgb, 0), (swapped, 2)):
        image = read_image(save(Image.new("RGB", (16, 16), (255, 0, 0)), icc_profile=profile))
        wanted = torch.tensor([255 * (channel == red_is_in) for channel in range(3)])
        assert (image.int() - wanted).abs().max() <= 2


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_every_kind_of_picture_becomes_rgb(save, mode):
    flat = Image.new("RGB", (32, 24), (255, 255, 255)).convert(mode)
    image = read_image(save(flat, "image.tif" if mode == "CMYK" else "image.png"))
    assert image.shape == (24, 32, 3)
    assert image.min() >= 250


def test_16_bits_are_scaled(save):
    assert read_image(save(Image.fromarray(np.full((16, 16), 65535, np.uint16)))).min() == 255


@pytest.mark.parametrize("size", [(1, 1), (15, 40), (40, 15)])
def test_a_tiny_picture_is_refused(save, size):
    with pytest.raises(UserError, match=f"{size[0]} x {size[1]}"):
        read_image(save(Image.new("RGB", size)))


def test_an_animation_is_refused(save):
    first, second = Image.new("RGB", (20, 20)), Image.new("RGB", (20, 20), (255, 0, 0))
    with pytest.raises(UserError, match="several frames"):
        read_image(save(first, "image.gif", save_all=True, append_images=[second]))


def test_transparent_places_are_refused(save):
    with pytest.raises(UserError, match="transparent"):
        read_image(save(Image.new("RGBA", (20, 20), (255, 0, 0, 100))))


@pytest.mark.parametrize("content", [b"", b"no picture", None])
def test_what_is_no_picture_is_refused(tmp_path, content):
    path = tmp_path / "image.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=r"image\.png"):
        read_image(path)


def test_a_broken_picture_is_refused(save):
    path = save(Image.fromarray(PIXELS))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match=r"image\.png"):
        read_image(path)


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match=Path(tmp_path).name):
        read_image(tmp_path)
