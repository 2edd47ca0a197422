from itertools import product

import pytest
import torch

from fastvmt_pl.errors import UserError
from fastvmt_pl.toy import ToyWorld
from fastvmt_pl.toy.toy_tracker import centroids, colour_mask
from fastvmt_pl.toy.toy_world import (
    BACKGROUNDS,
    COLOURS,
    FPS,
    MARGIN,
    NUM_FRAMES,
    PATHS,
    SHAPES,
    SIZE,
    combinations,
    is_held_out,
)

MOTION_WORDS = {"moves", "moving", "left", "right", "up", "down", "camera", "bounces", "still", "static", *PATHS}


def test_a_clip_has_the_worlds_geometry():
    clip = ToyWorld(3)[0]
    assert clip.frames.shape == (NUM_FRAMES, SIZE, SIZE, 3) == (17, 48, 48, 3)
    assert clip.camera.shape == (NUM_FRAMES, 2)
    assert FPS == 8


def test_the_same_seed_gives_the_same_clips_and_another_seed_others():
    first, again, other = ToyWorld(3)[7], ToyWorld(3)[7], ToyWorld(4)[7]
    assert torch.equal(first.frames, again.frames)
    assert torch.equal(first.trajectories, again.trajectories)
    assert first.prompt == again.prompt
    assert not torch.equal(first.frames, other.frames)
    assert not torch.equal(first.frames, ToyWorld(3)[8].frames)


def test_prompts_name_every_objects_appearance_and_no_motion():
    for index in range(40):
        clip = ToyWorld(1)[index]
        assert not MOTION_WORDS & set(clip.prompt.split())
        assert clip.prompt.endswith(f" on a {clip.background} background")
        assert all(f"a {item.colour} {item.shape}" in clip.prompt for item in clip.objects)
        assert len(clip.objects) == len(clip.paths) == len(clip.trajectories)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("camera", [False, True])
def test_paths_stay_away_from_the_border(path, camera):
    world = ToyWorld(5, camera=camera, paths=(path,))
    for index in range(12):
        trajectories = world[index].trajectories / (SIZE - 1)
        assert trajectories.min() > MARGIN - 0.02
        assert trajectories.max() < 1 - MARGIN + 0.02


@pytest.mark.parametrize("path", PATHS)
def test_an_object_is_drawn_where_its_path_says(path):
    world = ToyWorld(6, num_objects=1, paths=(path,))
    for index in range(12):
        clip = world[index]
        found = centroids(colour_mask(clip.frames, clip.objects[0].colour))
        assert (found - clip.trajectories[0]).norm(dim=1).max() < 0.7


@pytest.mark.parametrize("held_out", [False, True])
def test_training_never_sees_what_is_held_out(held_out):
    world, num_pairs = ToyWorld(2, held_out=held_out), 0
    for index in range(200):
        clip = world[index]
        num_pairs += len(clip.objects) == 2
        assert all(is_held_out(item, clip.background) == held_out for item in clip.objects)
    assert num_pairs > 20


def test_both_halves_contain_every_pair_of_two_words():
    for held_out in (False, True):
        half = [(item.shape, item.colour, background) for item, background in combinations(held_out=held_out)]
        assert len(half) == len(set(half)) == 64
        for first, second in ((0, 1), (0, 2), (1, 2)):
            words = (SHAPES, COLOURS, BACKGROUNDS)
            assert {(c[first], c[second]) for c in half} == set(product(words[first], words[second]))


def test_two_objects_have_two_colours():
    world = ToyWorld(8, num_objects=2)
    for index in range(30):
        first, second = world[index].objects
        assert first.colour != second.colour


def test_about_a_third_of_the_clips_have_a_moving_camera():
    world = ToyWorld(9)
    moving = sum(bool(world[index].camera.abs().max() > 0) for index in range(150))
    assert 0.22 < moving / 150 < 0.45


def test_the_background_moves_with_the_camera():
    """A texture that is sampled bilinearly where the camera says agrees with the frame."""
    world = ToyWorld(10, num_objects=1, camera=True)
    for index in range(8):
        clip = world[index]
        first, last = clip.frames[[0, -1], ..., 0].float()
        axis = torch.arange(SIZE, dtype=torch.float32)
        ground = torch.stack(torch.meshgrid(axis, axis, indexing="xy"), -1) - clip.camera[-1]
        sampled, unmoved = (
            torch.nn.functional.grid_sample(
                first[None, None], (place / (SIZE - 1) * 2 - 1)[None], align_corners=True, padding_mode="zeros"
            )[0, 0]
            for place in (ground, ground + clip.camera[-1])
        )
        inside = ((ground >= 0) & (ground <= SIZE - 1)).all(-1)
        for frame, track in ((0, clip.camera[-1]), (-1, torch.zeros(2))):  # away from the object, then and now
            inside &= (ground + clip.camera[-1] - clip.trajectories[0, frame] - track).norm(dim=-1) > 14
        assert inside.sum() > 100
        assert (sampled - last)[inside].abs().mean() < 1.5
        assert (unmoved - last)[inside].abs().mean() > 3 * (sampled - last)[inside].abs().mean()


def test_still_objects_move_with_the_camera_in_the_picture():
    for index in range(8):
        clip = ToyWorld(12, camera=True, paths=("still",))[index]
        for track in clip.trajectories:
            torch.testing.assert_close(track - track[0], clip.camera, atol=1e-4, rtol=0)
    fixed = ToyWorld(12, camera=False, paths=("still",))[0]
    assert (fixed.trajectories - fixed.trajectories[:, :1]).abs().max() < 1e-4


@pytest.mark.parametrize("options", [{"num_objects": 3}, {"num_objects": 0}, {"paths": ()}], ids=str)
def test_impossible_worlds_are_refused(options):
    with pytest.raises(UserError, match=next(iter(options))):
        ToyWorld(0, **options)
