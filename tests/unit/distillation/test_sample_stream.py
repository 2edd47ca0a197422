import pickle
from itertools import chain, islice

import pytest
import torch
from torch.utils.data import DataLoader

from fastvmt_pl.backbones.condition import Condition
from fastvmt_pl.distillation import Sample, write_shard
from fastvmt_pl.distillation.sample_stream import SampleStream

SHAPE = (2, 3, 4, 4)


def sample(number, shape=SHAPE, **settings):
    return Sample(
        torch.full(shape, float(number)),
        {"text": torch.ones(1 + number % 3, 4)},
        f"prompt {number}",
        number,
        **settings,
    )


@pytest.fixture
def folder(tmp_path):
    """Ten samples in three shards, and a clip with the number 100."""
    for name, numbers in (("a", range(4)), ("b", range(4, 7)), ("c", range(7, 10)), ("clip", [100])):
        write_shard(tmp_path / f"{name}.tar", [sample(number) for number in numbers])
    return tmp_path


def stream(folder, first=0, names="abc", **settings):
    options = {
        "samples": [folder / f"{name}.tar" for name in names],
        "clip": [folder / "clip.tar"],
        "clip_share": 0.0,
        "batch_size": 4,
        "num_batches": 12,
        "like": sample(0),
        "condition": Condition({"text": torch.empty(1, 6, 4)}),
        "trajectories": False,
        "seed": 0,
        "num_shuffled": 3,
        "rank": 0,
        "num_processes": 1,
    }
    made = SampleStream(**(options | settings))
    made.first = first
    return made


def numbers(batches):
    return [batch.latents[:, 0, 0, 0, 0].int().tolist() for batch in batches]


def test_every_pass_has_every_sample_once_in_an_order_of_its_own(folder):
    drawn = flat(numbers(stream(folder)))
    passes = [drawn[start : start + 10] for start in range(0, 40, 10)]
    assert all(sorted(one) == list(range(10)) for one in passes)
    assert len({tuple(one) for one in passes}) == 4
    assert drawn == flat(numbers(stream(folder)))
    assert drawn != flat(numbers(stream(folder, seed=1)))


def test_batches_are_numbered_and_prompts_filled_up(folder):
    batches = list(stream(folder))
    assert torch.equal(torch.cat([batch.draws for batch in batches]), torch.arange(48))
    first = batches[0]
    text = first.condition.tensors["text"]
    assert text.shape == (4, 6, 4)
    expected = [1 + number % 3 for number in numbers([first])[0]]
    assert text.any(-1).sum(1).tolist() == expected


def flat(batches):
    return list(chain.from_iterable(batches))


@pytest.mark.parametrize("clip_share", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("first", [1, 5, 12, 17, 24])
def test_it_goes_on_anywhere_as_if_it_had_not_stopped(folder, first, clip_share):
    whole = numbers(stream(folder, num_batches=36, clip_share=clip_share))
    end = (first // 12 + 1) * 12
    assert numbers(stream(folder, first, clip_share=clip_share)) == whole[first:end]


@pytest.mark.parametrize("clip_share", [0.0, 0.3])
def test_the_number_of_processes_changes_no_step(folder, clip_share):
    together = numbers(stream(folder, clip_share=clip_share))
    shares = [
        numbers(stream(folder, clip_share=clip_share, batch_size=2, rank=rank, num_processes=2)) for rank in range(2)
    ]
    assert [one + other for one, other in zip(*shares, strict=True)] == together


def test_the_number_of_workers_changes_nothing(folder):
    alone = numbers(stream(folder, first=2))
    loader = DataLoader(stream(folder, first=2), batch_size=None, num_workers=2, multiprocessing_context="fork")
    assert numbers(loader) == alone


def test_it_can_be_sent_to_a_worker_that_is_spawned(folder):
    assert numbers(pickle.loads(pickle.dumps(stream(folder, first=2)))) == numbers(stream(folder, first=2))


def test_the_clip_gets_its_share(folder):
    drawn = flat(numbers(stream(folder, clip_share=0.25)))
    assert [place for place, number in enumerate(drawn) if number == 100] == list(range(3, 48, 4))
    assert set(flat(numbers(stream(folder, clip_share=1.0)))) == {100}


def test_what_cannot_be_used_is_named_and_skipped(folder):
    (folder / "b.tar").write_bytes(b"no tar file")
    wide = Sample(torch.zeros(SHAPE), {"text": torch.ones(2, 5)}, "wide")
    long = Sample(torch.zeros(SHAPE), {"text": torch.ones(7, 4)}, "long")
    write_shard(folder / "c.tar", [sample(7), sample(8, (2, 3, 4, 5)), sample(9), wide, long])
    batches = list(islice(stream(folder, num_batches=3), 3))
    assert sorted(flat(numbers(batches))) == sorted(2 * [0, 1, 2, 3, 7, 9])
    problems = {problem for batch in batches for problem in batch.problems}
    assert len(problems) == 4
    assert any("wide" in problem and "[2, 5]" in problem for problem in problems)
    assert any("long" in problem and "[7, 4]" in problem for problem in problems)
    assert any("b.tar" in problem for problem in problems)
    assert any("prompt 8" in problem and "[2, 3, 4, 5]" in problem for problem in problems)


def test_when_nothing_is_left_it_says_so(folder):
    with pytest.raises(ValueError, match=r"no sample can be used of .*missing\.tar"):
        next(iter(stream(folder, names=["missing"])))


def test_trajectories_come_with_their_levels(folder):
    sigmas = torch.linspace(1, 0, 5)
    walked = [sample(n, trajectory=torch.randn(5, *SHAPE), sigmas=sigmas, guidance_scale=4.0) for n in range(4)]
    short = sample(6, trajectory=torch.randn(4, *SHAPE), sigmas=sigmas[1:])
    write_shard(folder / "walked.tar", [*walked, sample(5), short])
    batch = next(iter(stream(folder, names=["walked"], trajectories=True, like=walked[0])))
    assert batch.trajectory.shape == (4, 5, *SHAPE)
    assert torch.equal(batch.sigmas, sigmas.expand(4, -1))
    assert batch.guidance_scale.tolist() == [4.0] * 4
