import torch

from fastvmt_pl.evaluation.tracks import grid_of_points, keyframes, to_gray


def test_keyframes_include_both_ends_and_do_not_repeat():
    assert keyframes(17, 1) == [0]
    assert keyframes(17, 2) == [0, 16]
    assert keyframes(2, 5) == [0, 1]


def test_the_grid_fills_the_picture_with_square_cells():
    points = grid_of_points(8, 16, 4)
    assert len(points) == 4 * 8
    assert points[0].tolist() == [1.0, 1.0]
    assert points[1].tolist() == [3.0, 1.0]
    assert points[-1].tolist() == [15.0, 7.0]


def test_gray_separates_colours_of_equal_luminance():
    red, gray = torch.tensor([255, 50, 50]), torch.tensor([111, 111, 111])  # both of luminance 111
    video = gray.to(torch.uint8).repeat(2, 8, 8, 1)
    video[:, 2:5, 2:5] = red.to(torch.uint8)
    shades = to_gray(video)
    assert shades.shape == (2, 8, 8)
    assert abs(int(shades[0, 3, 3]) - int(shades[0, 0, 0])) == 255
    assert to_gray(gray.to(torch.uint8).repeat(2, 8, 8, 1)).unique().numel() == 1
