import torch

from fastvmt_pl.objectives import AttentionFlow
from fastvmt_pl.objectives.attention_flow import CAMERA_SHARE
from fastvmt_pl.objectives.grid import token_positions
from fastvmt_pl.objectives.placement import CarriedPart, Placement, camera_flow, path_flow

GRID = (6, 8)
FEATURE = AttentionFlow(window=3, tile=(2, 2), span=3)
NUM_FRAMES = 4


def shifts(*steps):
    """The path of a camera that shifts the background by (row, column) in shares of the frame since the first."""
    path = torch.eye(3).repeat(len(steps), 1, 1)
    path[:, :2, 2] = torch.tensor(steps)
    return path[None]


def measured(flow):
    """A reference with the same flow at every token."""
    num_pairs = len(FEATURE.pairs(NUM_FRAMES).first)
    flow = torch.tensor(flow).expand(1, num_pairs, GRID[0] * GRID[1], 2).contiguous()
    return {"flow": flow, "centres": torch.zeros(1, num_pairs, 12, 2, dtype=torch.long)}


def test_the_flow_of_a_path_is_the_change_of_its_maps_in_token_cells():
    path = shifts((0.0, 0.0), (0.5, 0.25), (0.0, 0.5))
    flow = path_flow(path, torch.tensor([0, 2]), torch.tensor([1, 1]), GRID)
    assert torch.allclose(flow[0, 0], torch.tensor([3.0, 2.0]).expand(48, 2), atol=1e-5)
    assert torch.allclose(flow[0, 1], torch.tensor([3.0, -2.0]).expand(48, 2), atol=1e-5)


def test_the_flow_of_a_zoom_grows_with_the_distance_from_its_centre():
    zoom = torch.eye(3).repeat(2, 1, 1)
    zoom[1, 0, 0] = zoom[1, 1, 1] = 2.0
    zoom[1, :2, 2] = -0.5  # about the middle
    flow = path_flow(zoom[None], torch.tensor([0]), torch.tensor([1]), GRID)
    middle = torch.tensor([GRID[0] / 2, GRID[1] / 2]) - 0.5
    assert torch.allclose(flow[0, 0], token_positions(GRID) - middle, atol=1e-5)


def test_the_cameras_flow_is_what_most_of_the_background_agrees_with():
    flow = torch.tensor([0.5, -1.0]).expand(1, 1, 48, 2).clone()
    flow[:, :, :5] = 4.0  # a thing that moves otherwise
    found = camera_flow(flow, torch.ones(1, 1, 48), GRID)
    assert torch.allclose(found, torch.tensor([0.5, -1.0]).expand_as(found), atol=0.05)


def test_a_measured_camera_takes_the_place_of_what_was_read_of_the_background():
    path = shifts((0.0, 0.0), (0.0, 0.125), (0.0, 0.25), (0.0, 0.375))  # a column of tokens a frame
    part = CarriedPart(torch.zeros(1, NUM_FRAMES, 48), torch.ones(1, NUM_FRAMES, 48), camera=path)
    carried = FEATURE.carry(measured((0.0, 0.2)), part, GRID, NUM_FRAMES)
    pairs = FEATURE.pairs(NUM_FRAMES)
    columns = (pairs.second - pairs.first).float()
    asked = CAMERA_SHARE * columns[:, None].expand(-1, 48)
    assert torch.allclose(carried["flow"][0, :, :, 1], asked, atol=1e-5)
    assert carried["flow"][..., 0].abs().max() < 1e-5
    moved = carried["centres"][0, :, :, 1] - carried["centres"][0, :, :1, 1]
    assert (moved == moved[0]).all()  # all windows of a frame move alike
    assert (carried["centres"][0, :, 0, 1] == columns).all()


def test_a_measured_camera_leaves_the_subjects_flow():
    subject = torch.zeros(1, NUM_FRAMES, 48)
    subject[..., 20] = 1
    part = CarriedPart(subject, 1 - subject, camera=shifts((0.0, 0.0), (0.0, 0.125), (0.0, 0.25), (0.0, 0.375)))
    reference = measured((0.0, 0.2))
    carried = FEATURE.carry(reference, part, GRID, NUM_FRAMES)
    assert torch.equal(carried["flow"][:, :, 20], reference["flow"][:, :, 20])
    assert not torch.equal(carried["flow"][:, :, 21], reference["flow"][:, :, 21])


def test_without_one_the_background_keeps_its_flow_and_its_windows():
    part = CarriedPart(torch.zeros(1, NUM_FRAMES, 48), torch.ones(1, NUM_FRAMES, 48))
    reference = measured((0.0, 0.2))
    carried = FEATURE.carry(reference, part, GRID, NUM_FRAMES)
    assert torch.equal(carried["flow"], reference["flow"])
    assert torch.equal(carried["centres"], reference["centres"])


def test_a_placed_subject_has_its_flow_scaled_and_the_camera_around_it():
    subject = torch.zeros(1, NUM_FRAMES, *GRID)
    subject[:, :, 2:4, 2:6] = 1
    subject = subject.flatten(2)
    reference = measured((0.0, 0.0))
    reference["flow"] = reference["flow"] + subject[:, :1, :, None] * torch.tensor([0.0, 2.0])
    part = CarriedPart(subject, 1 - subject, Placement(0.5, (1 / 3, 0.25)))
    flow = FEATURE.carry(reference, part, GRID, NUM_FRAMES)["flow"][0, 0].view(*GRID, 2)
    assert torch.allclose(flow[3, 3:5], torch.tensor([0.0, 1.0]), atol=0.1)
    assert flow[0, 0].abs().max() < 0.1
