import io
import json
import random
import tarfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from fastvmt_pl.distillation.shards import Sample, read_shards, write_shard


def sample(number, **changes):
    settings = {
        "latents": torch.full((8, 3, 12, 12), float(number)),
        "condition": {"text": torch.randn(5, 64), "pooled": torch.randn(8)},
        "prompt": f"prompt {number}",
        "seed": number,
        "scores": {"relative_attention_flow_error": 0.25},
    }
    return Sample(**(settings | changes))


def read(*paths):
    problems = []
    return list(read_shards(paths, problems.append)), problems


def add(path, **members):
    """Append an entry of raw members to a shard."""
    with tarfile.open(path, "a") as tar:
        for ending, content in members.items():
            info = tarfile.TarInfo(f"extra.{ending}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def test_a_sample_is_read_as_it_was_written(tmp_path):
    written = sample(
        1, trajectory=torch.randn(4, 8, 3, 12, 12).half(), sigmas=torch.linspace(1, 0, 4), guidance_scale=4.0
    )
    write_shard(tmp_path / "a.tar", [written])
    (found,), problems = read(tmp_path / "a.tar")
    assert problems == []
    assert found.condition.keys() == written.condition.keys()
    assert all(torch.equal(found.condition[name], tensor) for name, tensor in written.condition.items())
    for name in ("latents", "trajectory", "sigmas"):
        assert torch.equal(getattr(found, name), getattr(written, name))
    assert (found.prompt, found.seed, found.scores) == ("prompt 1", 1, {"relative_attention_flow_error": 0.25})
    assert found.guidance_scale == 4


def test_shards_are_read_in_order_and_written_alike(tmp_path):
    samples = [sample(number) for number in range(5)]
    write_shard(tmp_path / "a.tar", samples[:3])
    write_shard(tmp_path / "b.tar", samples[3:])
    found, _ = read(tmp_path / "a.tar", tmp_path / "b.tar")
    assert [one.seed for one in found] == [0, 1, 2, 3, 4]
    before = (tmp_path / "a.tar").read_bytes()
    write_shard(tmp_path / "a.tar", samples[:3])
    assert (tmp_path / "a.tar").read_bytes() == before


def test_an_order_shuffles_shards_and_samples_and_is_the_same_again(tmp_path):
    for number in range(4):
        write_shard(tmp_path / f"{number}.tar", [sample(10 * number + place) for place in range(5)])
    paths = sorted(tmp_path.glob("*.tar"))

    def seeds(order):
        return [one.seed for one in read_shards(paths, pytest.fail, random.Random(order))]

    assert seeds("a") == seeds("a") != seeds("b")
    assert sorted(seeds("a")) == sorted(seeds("b")) == [10 * n + m for n in range(4) for m in range(5)]


GOOD = {"latents": torch.zeros(8, 3, 12, 12), "text": torch.zeros(5, 64)}
DESCRIBED = json.dumps({"prompt": "a", "seed": 0, "scores": {}}).encode()


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"json": DESCRIBED}, "no safetensors"),
        ({"safetensors": save(GOOD)}, "no json"),
        ({"safetensors": save(GOOD)[:-8], "json": DESCRIBED}, "damaged"),
        ({"safetensors": b"\x80\x04K\x01.", "json": DESCRIBED}, "damaged"),
        ({"safetensors": save(GOOD), "json": b"{"}, "damaged"),
        ({"safetensors": save({"latents": GOOD["latents"]}), "json": DESCRIBED}, "no condition"),
        ({"safetensors": save(GOOD), "json": b'{"prompt": "a", "scores": {}}'}, "no 'seed'"),
        ({"safetensors": save(GOOD | {"latents": torch.full((8, 3, 12, 12), torch.nan)}), "json": DESCRIBED}, "finite"),
    ],
)
def test_a_bad_sample_is_named_and_skipped(tmp_path, members, reason):
    for name in ("a.tar", "b.tar"):
        write_shard(tmp_path / name, [sample(1)])
    add(tmp_path / "a.tar", **members)
    found, problems = read(tmp_path / "a.tar", tmp_path / "b.tar")
    assert [one.seed for one in found] == [1, 1]
    assert len(problems) == 1
    assert "a.tar, sample extra" in problems[0]
    assert reason in problems[0]


def test_a_shard_of_an_older_version_is_read(tmp_path):
    """It names the prompt's embedding ``text``, as Wan's condition does."""
    write_shard(tmp_path / "a.tar", [])
    add(tmp_path / "a.tar", safetensors=save(GOOD), json=DESCRIBED)
    (found,), problems = read(tmp_path / "a.tar")
    assert problems == []
    assert torch.equal(found.latents, GOOD["latents"])
    assert found.condition.keys() == {"text"}
    assert torch.equal(found.condition["text"], GOOD["text"])


@pytest.mark.parametrize("damage", [lambda data: data[:700], lambda data: b"no tar file at all", lambda data: b""])
def test_a_broken_shard_is_named_and_skipped(tmp_path, damage):
    for name in ("a.tar", "b.tar"):
        write_shard(tmp_path / name, [sample(1)])
    (tmp_path / "a.tar").write_bytes(damage((tmp_path / "a.tar").read_bytes()))
    found, problems = read(tmp_path / "a.tar", tmp_path / "missing.tar", tmp_path / "b.tar")
    assert [one.seed for one in found] == [1]
    assert len(problems) == 2
    assert "a.tar" in problems[0]
    assert "missing.tar" in problems[1]


def test_a_path_is_never_a_command(tmp_path):
    path = Path(f"pipe:touch {tmp_path / 'run'}")
    found, problems = read(path)
    assert found == []
    assert len(problems) == 1
    assert not (tmp_path / "run").exists()
