import torch

from fastvmt_pl.evaluation.appearance import appearance_leak, colour_histogram
from fastvmt_pl.toy import ToyWorld


def plain(colour, frames=2, size=8):
    return torch.tensor(colour, dtype=torch.uint8).expand(frames, size, size, 3)


def test_a_histogram_counts_each_pixel_once():
    video = torch.cat([plain((0, 0, 0)), plain((255, 255, 255)), plain((0, 0, 40)), plain((1, 2, 3))])
    histogram = colour_histogram(video)
    assert histogram[0] == 0.5
    assert histogram[1] == histogram[-1] == 0.25
    assert histogram.sum() == 1


def test_only_colours_beyond_the_baselines_leak():
    red, blue, green = plain((255, 0, 0)), plain((0, 0, 255)), plain((0, 255, 0))
    assert appearance_leak(red, red, blue) == 1
    assert appearance_leak(red, blue, blue) == 0
    assert appearance_leak(red, green, blue) == 0
    assert appearance_leak(red, blue, red) == 0  # less of it than without
    assert appearance_leak(red, red, red) == 0  # the prompt asks for these colours anyway
    half = torch.cat([red[:1], blue[:1]])
    assert appearance_leak(red, half, blue) == 0.5


def test_another_clip_leaks_less_than_the_clip_itself():
    world = ToyWorld(3, num_objects=1, camera=False)
    clip = world[0]
    others = [one for one in (world[n] for n in range(1, 30)) if one.background != clip.background]
    made, baseline = others[0].frames, others[1].frames
    assert appearance_leak(clip.frames, made, baseline) < 0.2
    assert appearance_leak(clip.frames, clip.frames, baseline) == 1
