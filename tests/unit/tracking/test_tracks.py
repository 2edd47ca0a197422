from fastvmt_pl.tracking.tracks import grid_of_points, keyframes


def test_keyframes_hold_both_ends_and_no_frame_twice():
    assert keyframes(17, 1) == [0]
    assert keyframes(17, 2) == [0, 16]
    assert keyframes(2, 5) == [0, 1]


def test_the_grid_fills_the_picture_with_square_cells():
    points = grid_of_points(8, 16, 4)
    assert len(points) == 4 * 8
    assert points[0].tolist() == [1.0, 1.0]
    assert points[1].tolist() == [3.0, 1.0]
    assert points[-1].tolist() == [15.0, 7.0]
