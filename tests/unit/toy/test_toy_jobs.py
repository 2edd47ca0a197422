import pytest

from fastvmt_pl.toy.toy_jobs import other_looks, toy_jobs
from fastvmt_pl.toy.toy_world import is_held_out


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
    assert found.path_error > 0.5  # the prompted colour is not there
    assert found.leak_free == 0
    assert found.appearance == 0
    assert len(other_looks(job.clip, held_out=True)) > 20
