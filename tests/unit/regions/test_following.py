import numpy as np
import pytest
import torch

from fastvmt_pl.clips import Clip
from fastvmt_pl.regions import find_region
from fastvmt_pl.regions.camera import camera_path, small_flow
from fastvmt_pl.regions.cutting import box_of, cut_out, main_pieces, subject_in
from fastvmt_pl.regions.following import chained, follow
from fastvmt_pl.regions.moving import follow_moving, moving_besides, moving_masks
from fastvmt_pl.toy import ToyWorld
from fastvmt_pl.toy.toy_tracker import colour_mask


def overlap(found, true):
    return float((found & true).sum() / (found | true).sum())


def scene(size=96, num_frames=9, camera=0, start=10, step=6, radius=10, hidden=None):
    """A disc that moves to the right over a textured background that a camera moves, and its true masks."""
    y, x = np.mgrid[:size, :size]
    ground = np.random.default_rng(0).uniform(60, 140, (size, size + 200)).astype(np.float32)
    ground = sum(np.roll(np.roll(ground, a, 0), b, 1) for a in range(3) for b in range(3)) / 9
    frames, masks = [], []
    for number in range(num_frames):
        shift = 50 + camera * number
        picture = np.repeat(ground[:, shift : shift + size, None], 3, 2)
        disc = (x - start - step * number) ** 2 + (y - size / 2) ** 2 <= radius**2
        picture[disc] = (230, 60, 40) + 20 * np.sin(x[disc] - step * number)[:, None]
        if hidden is not None:
            post = (x >= hidden) & (x < hidden + 8)
            picture[post], disc = (20, 20, 20), disc & ~post
        frames.append(picture)
        masks.append(disc)
    return np.stack(frames).clip(0, 255).astype(np.uint8), np.stack(masks)


def around(mask, margin=2):
    left, top, right, bottom = box_of(mask)
    height, width = mask.shape
    return max(0, left - margin), max(0, top - margin), min(width, right + margin), min(height, bottom + margin)


def whole(frames):
    return 0, 0, frames.shape[2], frames.shape[1]


@pytest.mark.parametrize("camera", [0, 3])
def test_a_box_is_followed(camera):
    frames, masks = scene(camera=camera)
    found = follow(frames, subject_in(frames[0], around(masks[0])))
    assert min(overlap(a, b) for a, b in zip(found, masks, strict=True)) > 0.7


def test_a_subject_is_followed_behind_a_post():
    frames, masks = scene(size=128, num_frames=17, step=5, hidden=60)
    found = follow(frames, subject_in(frames[0], around(masks[0])))
    assert np.mean([overlap(a, b) for a, b in zip(found, masks, strict=True)]) > 0.7
    assert overlap(found[-1], masks[-1]) > 0.6


def test_boxes_of_toy_objects_are_followed():
    scores = []
    for index in range(8):
        clip = ToyWorld(5, num_objects=1)[index]
        mask = colour_mask(clip.frames, clip.objects[0].colour)
        box = [float(edge) for edge in around(mask[0].numpy(), 1)]
        region = find_region(box, "subject", Clip(clip.frames, 8.0, "toy"), (48, 48))
        scores.append(overlap(region.subject, mask))
    assert sorted(scores)[1] > 0.75


@pytest.mark.parametrize("camera", [0, 3])
def test_what_moves_is_found(camera):
    frames, masks = scene(camera=camera, step=5)
    flow = small_flow(frames)
    moving, found = moving_masks(frames, flow), follow_moving(frames, flow)
    assert min((a & b).sum() / b.sum() for a, b in zip(moving[1:-1], masks[1:-1], strict=True)) > 0.8
    assert np.mean([overlap(a, b) for a, b in zip(found, masks, strict=True)]) > 0.5


def test_what_moves_besides_the_subject_is_found():
    scores = []
    for index in range(6):
        clip = ToyWorld(5, num_objects=2, camera=False, paths=("linear", "arc"))[index]
        subject, other = (colour_mask(clip.frames, item.colour).numpy() for item in clip.objects)
        frames = clip.frames.numpy()
        found = moving_besides(frames, small_flow(frames), subject)
        assert not (found & subject).any()
        scores.append((found & other).sum() / other.sum())
    assert np.mean(scores) > 0.75


def test_in_a_clip_without_motion_nothing_is_found():
    frames, _ = scene(step=0)
    assert not follow_moving(frames, small_flow(frames)).any()


def test_a_subject_is_cut_out_of_its_box():
    frames, masks = scene()
    assert overlap(subject_in(frames[0], around(masks[0], 4)), masks[0]) > 0.7


def test_a_box_in_which_nothing_stands_out_is_the_region():
    plain = np.full((40, 40, 3), 90, np.uint8)
    assert subject_in(plain, (10, 12, 20, 22)).sum() == 100
    assert not cut_out(plain, np.zeros((40, 40), np.uint8), 1).any()


def test_small_pieces_do_not_count():
    mask = np.zeros((20, 20), bool)
    mask[2:12, 2:12] = mask[18, 18] = True
    assert main_pieces(mask).sum() == 100


def test_motions_are_chained_in_their_order():
    turn, shift = np.array([[0.0, -1, 0], [1, 0, 0]]), np.array([[1.0, 0, 5], [0, 1, 0]])
    point = np.array([1.0, 0, 1])
    assert (chained(turn, shift) @ point).tolist() == [0, 6]
    assert (chained(shift, turn) @ point).tolist() == [5, 1]


def test_following_is_repeatable():
    frames, masks = scene(num_frames=5)
    first = subject_in(frames[0], around(masks[0]))
    assert torch.equal(torch.from_numpy(follow(frames, first)), torch.from_numpy(follow(frames, first)))


@pytest.mark.parametrize("camera", [0, 3])
def test_the_camera_is_measured_beside_what_moves(camera):
    frames, masks = scene(camera=camera)
    path = camera_path(small_flow(frames), masks, whole(frames))
    true = torch.eye(3).repeat(len(frames), 1, 1)
    true[:, 1, 2] = -camera * torch.arange(len(frames)) / frames.shape[2]
    assert (path - true).abs().max() < 0.01


def test_the_camera_of_a_part_of_the_frame_is_in_shares_of_it():
    frames, masks = scene(camera=3)
    flow, (height, width) = small_flow(frames), frames.shape[1:3]
    part = width // 4, height // 8, width // 2, height // 2
    inside = np.array([[1 / 2, 0, 1 / 8], [0, 1 / 2, 1 / 4], [0, 0, 1]])  # shares of the part to those of the frame
    path = camera_path(flow, masks, whole(frames)).double().numpy()
    assert np.allclose(camera_path(flow, masks, part).numpy(), np.linalg.inv(inside) @ path @ inside, atol=1e-5)


def test_a_camera_that_sees_nothing_stands_still():
    frames, _ = scene(camera=3)
    path = camera_path(small_flow(frames), np.ones(frames.shape[:3], bool), whole(frames))
    assert torch.equal(path, torch.eye(3).repeat(len(frames), 1, 1))
