import pytest
import torch

from fastvmt_pl.errors import UserError
from fastvmt_pl.toy.toy_jobs import ToyJob, other_looks, toy_jobs
from fastvmt_pl.toy.toy_tracker import centroids, colour_mask
from fastvmt_pl.toy.toy_world import Appearance, is_held_out


@pytest.mark.parametrize("options", [{}, {"num_objects": 2}, {"camera": True, "paths": ("still",)}])
def test_a_prompt_shares_no_word_with_its_clip_and_is_held_out(options):
    for job in toy_jobs(8, "tuning", **options):
        assert is_held_out(job.item, job.background)
        assert job.background != job.clip.background
        assert not {job.item.colour, job.item.shape} & {x for o in job.clip.objects for x in (o.colour, o.shape)}
        assert job.item.colour in job.prompt


def test_splits_share_no_clip_and_are_always_the_same():
    tuning, test, again = toy_jobs(4, "tuning"), toy_jobs(4, "test"), toy_jobs(2, "test")
    assert not any((a.clip.trajectories == b.clip.trajectories).all() for a in tuning for b in test)
    assert [job.prompt for job in again] == [job.prompt for job in test[:2]]


def test_the_reference_itself_does_not_show_the_prompt():
    job = toy_jobs(1)[0]
    found = job.judge(job.clip.frames)
    assert found["path_error"] > 0.5  # the prompted colour is not there
    assert found["leak_free"] == 0
    assert found["appearance"] == 0
    assert len(other_looks(job.clip, held_out=True)) > 20


def as_prompted(job):
    """The clip of a job as if the prompt were of its own followed object."""
    item = job.clip.objects[job.followed]
    return ToyJob(job.clip, Appearance(item.colour, item.shape), job.clip.background, None, job.followed, job.region)


@pytest.mark.parametrize("region", [0, 1])
def test_a_region_is_the_object_that_is_followed(region):
    errors = []
    for job in toy_jobs(5, "tuning", num_objects=2, region=region):
        found = as_prompted(job).judge(job.clip.frames)
        errors.append(found["path_error"])
        assert found["followed"] == pytest.approx(1, abs=0.3)
        rows, columns = job.region[0].nonzero().float().mean(0)
        assert (torch.tensor([columns, rows]) - job.clip.trajectories[region, 0]).norm() < 3
    assert sorted(errors)[2] < 0.15  # one object may hide the other for a time


def test_a_camera_is_judged_by_the_background():
    for job in toy_jobs(4, "tuning", camera=True, region=0):
        assert as_prompted(job).judge(job.clip.frames)["camera_error"] < 0.2
        still = job.clip.frames[:1].expand(17, -1, -1, -1)
        assert as_prompted(job).judge(still)["camera_error"] == pytest.approx(1, abs=0.1)


def test_an_image_elsewhere_has_its_place_and_a_path_scaled_as_its_object():
    for job in toy_jobs(8, "tuning", images=True, elsewhere=True, region=0):
        (start,) = centroids(colour_mask(job.image[None], job.item.colour))
        path = start + job.truth - job.truth[0]
        rows, columns = job.region[0].nonzero().unbind(1)
        middle = torch.tensor([columns.min() + columns.max(), rows.min() + rows.max()]) / 2
        assert (middle + torch.tensor(job.place[1:]) - start).norm() < 4
        assert path.min() > 0
        assert path.max() < 47
        assert 0.6 < job.scale < 1.6
        assert 4 < (colour_mask(job.image[None], job.item.colour).sum() / 3.14) ** 0.5 < 9.5
        assert (start - job.clip.trajectories[0, 0]).norm() > 0
        assert job.judge(job.image.expand(17, -1, -1, -1))["image_psnr"] > 60


@pytest.mark.parametrize("options", [{"region": 1}, {"elsewhere": True, "images": True}])
def test_jobs_without_such_an_object_are_refused(options):
    with pytest.raises(UserError, match="region"):
        toy_jobs(1, **options)
