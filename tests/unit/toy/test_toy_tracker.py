import math

import pytest
import torch

from fastvmt_pl.toy import ToyWorld
from fastvmt_pl.toy.toy_tracker import (
    MIN_AREA,
    background_of,
    centroids,
    colour_mask,
    largest_piece,
    relative_path_error,
    score,
)
from fastvmt_pl.toy.toy_world import BACKGROUNDS, COLOURS, PATHS


def moving_clips(number=16):
    world = ToyWorld(20, num_objects=1, camera=False, paths=[p for p in PATHS if p != "still"])
    return [world[index] for index in range(number)]


def naive_largest_piece(mask):
    """Share of a mask in its largest piece, by flood fill over eight neighbours."""
    left = {(int(y), int(x)) for y, x in mask.nonzero()}
    total, sizes = len(left), []
    while left:
        edge, size = [left.pop()], 0
        while edge:
            y, x = edge.pop()
            size += 1
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            edge += near
        sizes.append(size)
    return max(sizes) / total if sizes else 0.0


@pytest.mark.parametrize("density", [0.0, 0.2, 0.4, 0.6, 1.0])
def test_the_largest_piece_equals_a_flood_fill(density):
    mask = torch.rand(3, 12, 17) < density
    torch.testing.assert_close(largest_piece(mask), torch.tensor([naive_largest_piece(frame) for frame in mask]))


def test_a_true_clip_has_the_best_scores():
    for clip in moving_clips():
        found = score(clip.frames, clip.objects[0], clip.background, clip.trajectories[0])
        assert (found.present, found.one_piece, found.background, found.leak_free, found.appearance) == (1, 1, 1, 1, 1)
        assert found.path_error < 0.1


def test_a_true_clip_with_a_moving_camera_has_the_best_scores():
    world = ToyWorld(21, num_objects=1, camera=True, paths=("linear", "arc"))
    for index in range(6):
        clip = world[index]
        found = score(clip.frames, clip.objects[0], clip.background, clip.trajectories[0])
        assert (found.present, found.one_piece, found.background) == (1, 1, 1)
        assert found.path_error < 0.1


def test_another_motion_scores_worse_than_no_motion():
    world = ToyWorld(22, num_objects=1, camera=False, paths=("linear",))
    for index in range(6):
        clip = world[index]
        backwards = score(clip.frames.flip(0), clip.objects[0], clip.background, clip.trajectories[0])
        standing = score(clip.frames[:1].expand(17, -1, -1, -1), clip.objects[0], clip.background, clip.trajectories[0])
        assert backwards.path_error > 1.5
        assert standing.path_error == pytest.approx(1.0, abs=1e-4)


def test_a_motion_may_take_place_anywhere():
    truth = moving_clips(1)[0].trajectories[0]
    assert relative_path_error(truth + torch.tensor([5.0, -3.0]), truth) < 1e-5


def test_in_a_frame_without_the_object_the_path_is_at_its_mean():
    path = torch.tensor([[0.0, 0.0], [math.nan, math.nan], [2.0, 0.0], [4.0, 0.0]])
    filled = torch.tensor([[0.0, 0.0], [2.0, 0.0], [2.0, 0.0], [4.0, 0.0]])
    truth = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [3.0, 0.0]])
    assert relative_path_error(path, truth) == pytest.approx(relative_path_error(filled, truth))


def test_frames_without_the_object_lower_presence():
    clip = moving_clips(1)[0]
    frames = clip.frames.clone()
    frames[:5] = torch.tensor(BACKGROUNDS[clip.background], dtype=torch.uint8)
    found = score(frames, clip.objects[0], clip.background, clip.trajectories[0])
    assert found.present == found.one_piece == pytest.approx(12 / 17)
    assert math.isfinite(found.path_error)


def test_a_video_without_the_object_has_the_path_error_of_a_still_one():
    clip = moving_clips(1)[0]
    empty = torch.tensor(BACKGROUNDS[clip.background], dtype=torch.uint8).expand_as(clip.frames)
    found = score(empty, clip.objects[0], clip.background, clip.trajectories[0])
    assert (found.present, found.one_piece, found.background) == (0, 0, 1)
    assert found.path_error == pytest.approx(1.0)


def test_two_pieces_lower_one_piece():
    mask = torch.zeros(1, 48, 48, dtype=torch.bool)
    mask[:, 5:15, 5:15] = mask[:, 30:40, 30:40] = True
    frames = torch.zeros(1, 48, 48, 3, dtype=torch.uint8)
    frames[mask] = torch.tensor(COLOURS["red"], dtype=torch.uint8)
    clip = moving_clips(1)[0]
    found = score(frames, type(clip.objects[0])("red", "square"), "black")
    assert (found.present, found.one_piece) == (1, 0)
    assert math.isnan(found.path_error)


def test_edges_of_true_objects_do_not_leak():
    """A yellow one on brown has the most pixels that look orange."""
    world = ToyWorld(7, num_objects=1)
    clips = (world[i] for i in range(200))
    yellow = [clip for clip in clips if (clip.objects[0].colour, clip.background) == ("yellow", "brown")]
    assert yellow
    for clip in [*moving_clips(4), *yellow]:
        for colour in set(COLOURS) - {clip.objects[0].colour}:
            assert score(clip.frames, clip.objects[0], clip.background, None, colour).leak_free == 1


def test_any_second_object_is_a_leak():
    for index in range(16):
        clip = ToyWorld(8, num_objects=2)[index]
        hidden, shown = clip.objects
        assert score(clip.frames, shown, clip.background, None, hidden.colour).leak_free < 0.3


def test_the_references_colour_is_a_leak():
    clip = moving_clips(1)[0]
    colour = next(c for c in COLOURS if c != clip.objects[0].colour)
    assert score(clip.frames, clip.objects[0], clip.background, None, colour).leak_free == 1
    frames = clip.frames.clone()
    frames[:4, :5, :5] = torch.tensor(COLOURS[colour], dtype=torch.uint8)
    assert score(frames, clip.objects[0], clip.background, None, colour).leak_free == pytest.approx(13 / 17)


def test_few_pixels_of_a_colour_do_not_count_as_an_object():
    mask = torch.zeros(2, 20, 20, dtype=torch.bool)
    mask[0].view(-1)[: MIN_AREA - 1] = True
    mask[1, 4:14, 2:8] = True
    found = centroids(mask)
    assert found[0].isnan().all()
    assert found[1].tolist() == [4.5, 8.5]  # x, y


@pytest.mark.parametrize("colour", COLOURS)
def test_every_colour_differs_from_the_others_and_from_backgrounds(colour):
    patches = torch.tensor([*COLOURS.values(), *BACKGROUNDS.values()], dtype=torch.uint8)[None, None]
    assert colour_mask(patches, colour).flatten().nonzero().flatten().tolist() == [list(COLOURS).index(colour)]


def test_backgrounds_are_named_frame_by_frame():
    frames = torch.tensor(list(BACKGROUNDS.values()), dtype=torch.uint8)[:, None, None].expand(-1, 8, 8, -1).clone()
    frames[:, :2] = torch.tensor(COLOURS["white"], dtype=torch.uint8)
    assert background_of(frames) == list(BACKGROUNDS)
