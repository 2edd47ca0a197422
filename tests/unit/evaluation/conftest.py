import pytest
import torch
from torch.nn.functional import interpolate


@pytest.fixture(scope="session")
def texture():
    """A smooth random picture, larger than the videos that are cut from it."""
    coarse = torch.rand(1, 3, 40, 48, generator=torch.Generator().manual_seed(3))
    return (interpolate(coarse, (240, 288), mode="bicubic").clamp(0, 1) * 255).to(torch.uint8)[0].permute(1, 2, 0)


@pytest.fixture(scope="session")
def pan(texture):
    """Cuts a video out of the texture; what it shows moves by (x, y) pixels a frame."""

    def cut(x, y, num_frames=6, height=128, width=160):
        tops = [56 - y * frame for frame in range(num_frames)]
        lefts = [64 - x * frame for frame in range(num_frames)]
        return torch.stack([texture[t : t + height, left : left + width] for t, left in zip(tops, lefts, strict=True)])

    return cut
