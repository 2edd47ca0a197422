import pytest
import torch

from fastvmt_pl.errors import UserError
from fastvmt_pl.objectives.placement import Placement
from fastvmt_pl.regions import check_seen, parse_place, place_of
from fastvmt_pl.regions.cutting import box_of
from fastvmt_pl.regions.placing import find_subject
from fastvmt_pl.regions.region import Region
from fastvmt_pl.toy.toy_jobs import toy_jobs
from fastvmt_pl.toy.toy_tracker import colour_mask

SIZE = (40, 80)


@pytest.fixture
def region():
    """A square of 10 pixels at (5, 15) that moves 2 pixels to the right in each frame; frames of 80 x 160."""
    masks = torch.zeros(5, 80, 160, dtype=torch.bool)
    for number in range(5):
        masks[number, 15:25, 5 + 2 * number : 15 + 2 * number] = True
    return Region(masks, torch.zeros_like(masks))


@pytest.mark.parametrize("given", ["1,2", "0,1,1", "-1,0,0", "3,1,2,4", "nan,1,1", "left", [1.0]])
def test_what_is_no_place_is_refused(given):
    with pytest.raises(UserError, match="place"):
        parse_place(given)


def test_without_image_the_place_is_the_clips(region):
    assert place_of(None, region, SIZE) is None
    assert place_of("same", region, SIZE, torch.zeros(40, 80, 3, dtype=torch.uint8)) is None


def test_a_box_is_in_pixels_of_the_new_video(region):
    placement = place_of("40,20,50,30", region, SIZE)  # 10 x 10 of 40 x 80, for 10 x 10 of 80 x 160
    assert placement.scale == pytest.approx(2)
    middle = torch.tensor([20 / 80, 10 / 160])
    assert placement(middle).tolist() == pytest.approx([25 / 40, 45 / 80])


def test_with_an_image_a_box_is_in_its_pixels(region):
    image = torch.zeros(100, 100, 3, dtype=torch.uint8)  # of which the middle 50 rows are used
    placement = place_of([20.0, 45.0, 30.0, 55.0], region, SIZE, image)
    middle = torch.tensor([20 / 80, 10 / 160])
    assert placement(middle).tolist() == pytest.approx([25 / 50, 25 / 100])
    assert placement.scale == pytest.approx((10 / 50 * 10 / 100 / (10 / 80 * 10 / 160)) ** 0.5)


def test_scale_and_offset_are_about_the_middle_of_the_region(region):
    placement = place_of("0.5,8,4", region, SIZE)
    middle = torch.tensor([20 / 80, 10 / 160])
    assert placement.scale == 0.5
    assert placement(middle).tolist() == pytest.approx([20 / 80 + 4 / 40, 10 / 160 + 8 / 80])


@pytest.mark.parametrize("given", ["6,0,0", "1,75,0", "70,5,79,14"])
def test_a_place_that_the_motion_leaves_is_refused(region, given):
    moving = Region(region.subject.roll(0), region.others)
    moving.subject[4] = region.subject[0].roll(40, 1)
    with pytest.raises(UserError, match="leaves the frame"):
        place_of(given, moving, SIZE)


def test_a_box_outside_the_frame_is_refused(region):
    with pytest.raises(UserError, match="80 x 40"):
        place_of("70,10,90,20", region, SIZE)


def test_a_place_in_which_no_token_belongs_to_the_subject_is_refused():
    subject = torch.zeros(1, 3, 12 * 12)
    subject[0, 0].view(12, 12)[2:7, 4:9] = 1
    check_seen(Placement(0.21, (0.3, 0.3)), subject, (12, 12), (48, 48))
    with pytest.raises(UserError, match="0\\.15"):
        check_seen(Placement(0.15, (0.3, 0.3)), subject, (12, 12), (48, 48))


def test_a_background_has_no_place(region):
    background = Region(region.subject, region.others, "background")
    assert place_of(None, background, SIZE, torch.zeros(40, 80, 3, dtype=torch.uint8)) is None
    with pytest.raises(UserError, match="background"):
        place_of("1,2,3", background, SIZE)


def test_the_subject_of_a_plain_image_is_found(region):
    image = torch.full((40, 80, 3), 60, dtype=torch.uint8)
    image[12:28, 30:50] = torch.tensor([220, 80, 40], dtype=torch.uint8)
    left, top, right, bottom = find_subject(image)
    assert max(abs(left - 30), abs(top - 12), abs(right - 50), abs(bottom - 28)) <= 1
    placement = place_of(None, region, SIZE, image)
    assert placement(torch.tensor([20 / 80, 10 / 160])).tolist() == pytest.approx([0.5, 0.5], abs=0.02)


def test_an_image_without_a_plain_subject_asks_for_its_place(region):
    image = torch.randint(0, 255, (40, 80, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with pytest.raises(UserError, match="x0,y0,x1,y1"):
        place_of("auto", region, SIZE, image)
    with pytest.raises(UserError, match="image"):
        place_of("auto", region, SIZE)


def test_subjects_of_toy_images_are_found():
    away, num_jobs = [], 24
    for job in toy_jobs(num_jobs, "tuning", images=True):
        box, mask = find_subject(job.image), colour_mask(job.image[None], job.item.colour)[0]
        if box is not None:
            wanted = box_of(mask.numpy())
            away.append(max(abs(a - b) for a, b in zip(box, wanted, strict=True)))
    assert len(away) > num_jobs / 3  # the others touch the border
    assert sorted(away)[len(away) * 3 // 4] <= 3


def test_a_placement_and_its_inverse():
    placement = Placement(0.5, (0.1, 0.3))
    points = torch.rand(7, 2)
    torch.testing.assert_close(placement.inverse()(placement(points)), points)
