import random
from pathlib import Path

from fastvmt_pl.joblists.job_list import Job
from fastvmt_pl.joblists.job_queue import make_batches


def jobs_of(clip, count, **settings):
    return [Job(f"{clip}{number}", Path(f"{clip}.mp4"), "x", number, settings=settings) for number in range(count)]


def test_a_batch_has_jobs_of_one_clip_and_the_same_settings_in_the_order_of_the_list():
    jobs = [*jobs_of("a", 3), *jobs_of("b", 2), *jobs_of("c", 1, num_steps=1)]
    batches = make_batches(jobs, {}, batch_size=2)
    assert [[job.name for job in batch.jobs] for batch in batches] == [["a0", "a1"], ["b0", "b1"], ["a2"], ["c0"]]
    mixed = random.Random(0).sample(jobs, len(jobs))
    assert {len(batch.jobs) for batch in make_batches(mixed, {}, 2)} == {1, 2}
    assert len({batch.key for batch in batches}) == 4


def test_what_else_is_in_the_list_changes_no_batch():
    jobs, others = jobs_of("a", 3), jobs_of("b", 5)
    alone = {batch.key: batch.jobs for batch in make_batches(jobs, {}, 2)}
    together = {batch.key: batch.jobs for batch in make_batches([*others, *jobs], {}, 2)}
    assert alone.items() <= together.items()


def test_expensive_batches_come_first_and_so_do_those_of_unknown_cost():
    cheap, dear, unknown = jobs_of("a", 1), jobs_of("b", 1, num_steps=9), jobs_of("c", 1, num_steps=5)
    batches = make_batches([*cheap, *dear, *unknown], {cheap[0].kind: 1, dear[0].kind: 9}, 2)
    assert [batch.jobs[0].name for batch in batches] == ["b0", "c0", "a0"]
