import pytest
import torch
from torch.testing import assert_close

from fastvmt_pl.evaluation.dense_flow import consistent, dense_flow, is_inside, pixel_grid, sample_at

INNER = (slice(None), slice(24, -24), slice(24, -24))


@pytest.mark.parametrize("motion", [(4, 0), (-3, 5), (0, 0)])
def test_flow_is_the_motion_in_pixels_as_x_and_y(pan, motion):
    video = pan(*motion)
    wanted = torch.tensor(motion, dtype=torch.float32)
    for backward, sign in ((False, 1), (True, -1)):
        flow = dense_flow(video, backward)
        assert flow.shape == (5, 128, 160, 2)
        assert (flow[INNER] - sign * wanted).abs().mean() < 0.1


def test_a_single_frame_has_no_flow(pan):
    assert dense_flow(pan(1, 1)[:1]).shape == (0, 128, 160, 2)


def test_maps_are_interpolated_and_constant_beyond_the_border():
    positions = pixel_grid(5, 7)[None]
    points = torch.tensor([[[0.0, 0.0], [2.5, 3.25], [6.0, 4.0], [9.0, -2.0]]])
    assert_close(sample_at(positions, points), torch.tensor([[[0.0, 0.0], [2.5, 3.25], [6.0, 4.0], [6.0, 0.0]]]))
    assert is_inside(points, 5, 7).tolist() == [[True, True, True, False]]


def test_points_that_do_not_return_are_inconsistent():
    start = torch.tensor([[[2.0, 2.0], [3.0, 3.0], [6.0, 1.0]]])
    moved = start + torch.tensor([1.0, 0.0])
    backward = torch.zeros(1, 5, 8, 2)
    backward[..., 0] = -1.0
    assert consistent(start, moved, backward, 0.5).tolist() == [[True, True, True]]
    backward[:, 3, :, 1] = 4.0
    assert consistent(start, moved, backward, 0.5).tolist() == [[True, False, True]]
    assert consistent(start + 1, moved + 1, backward[:, :, :7], 9.0).tolist() == [[True, True, False]]  # out of it
