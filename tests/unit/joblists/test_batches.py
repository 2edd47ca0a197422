import random
from pathlib import Path

from fastvmt_pl.joblists.batches import make_batches
from fastvmt_pl.joblists.job import Job


def jobs_of(clip, count, **settings):
    return [Job(f"{clip}{number}", Path(f"{clip}.mp4"), "x", number, settings=settings) for number in range(count)]


def names_of(batches):
    return [[job.name for job in batch.jobs] for batch in batches]


def test_a_batch_has_jobs_of_one_clip_and_the_same_settings_in_the_order_of_the_list():
    jobs = [*jobs_of("a", 3), *jobs_of("b", 2), *jobs_of("c", 1, num_steps=1)]
    batches = make_batches(jobs, {}, batch_size=2)
    assert names_of(batches) == [["a0", "a1"], ["b0", "b1"], ["a2"], ["c0"]]
    mixed = random.Random(0).sample(jobs, len(jobs))
    assert {len(batch.jobs) for batch in make_batches(mixed, {}, 2)} == {1, 2}
    assert len({batch.key for batch in batches}) == 4


def test_jobs_of_different_clips_with_the_same_settings_share_a_batch_if_asked_for():
    jobs = [*jobs_of("a", 1), *jobs_of("b", 2), *jobs_of("c", 1, num_steps=1), *jobs_of("d", 1)]
    assert names_of(make_batches(jobs, {}, 3, across_clips=True)) == [["a0", "b0", "b1"], ["d0"], ["c0"]]


def test_what_else_is_in_the_list_changes_no_batch():
    jobs, others = jobs_of("a", 3), jobs_of("b", 5)
    alone = {batch.key: batch.jobs for batch in make_batches(jobs, {}, 2)}
    together = {batch.key: batch.jobs for batch in make_batches([*others, *jobs], {}, 2)}
    assert alone.items() <= together.items()


def test_a_batch_has_another_key_once_one_of_its_clips_has_changed(tmp_path):
    jobs = [Job(name, tmp_path / name, "x") for name in ("a", "b")]
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").write_bytes(b"b")
    (before,) = make_batches(jobs, {}, 2, across_clips=True)
    (tmp_path / "b").write_bytes(b"bb")
    (after,) = make_batches(jobs, {}, 2, across_clips=True)
    assert before.key != after.key


def test_expensive_batches_come_first_and_so_do_those_of_unknown_cost():
    cheap, dear, unknown = jobs_of("a", 1), jobs_of("b", 1, num_steps=9), jobs_of("c", 1, num_steps=5)
    batches = make_batches([*cheap, *dear, *unknown], {cheap[0].kind: 1, dear[0].kind: 9}, 2)
    assert names_of(batches) == [["b0"], ["c0"], ["a0"]]


def test_batches_of_a_backbone_come_together_and_processes_begin_with_different_ones():
    tiled = {"model.backbone.init_args.vae_tiling": True}
    jobs = [*jobs_of("a", 1), *jobs_of("b", 1, **tiled), *jobs_of("c", 1)]
    orders = [names_of(make_batches(jobs, {}, 1, number=number)) for number in range(3)]
    assert orders == [[["a0"], ["c0"], ["b0"]], [["b0"], ["a0"], ["c0"]], [["a0"], ["c0"], ["b0"]]]
    assert make_batches([], {}, 1, number=3) == []
