from pathlib import Path

import pytest
import yaml

from fastvmt_pl.errors import UserError
from fastvmt_pl.joblists.job import Job, config_hash, stamp_of


def job(clip="a.mp4", prompt="x", name="job", seed=0, settings=None, **options):
    return Job(name, Path(clip), prompt, seed, options, settings or {})


def identity(job):
    return job.identify({"job": yaml.safe_load(job.described())})


def test_jobs_of_one_group_differ_in_name_prompt_and_seed_alone():
    jobs = [
        job(),
        job(prompt="y", seed=1, name="other"),
        job("b.mp4"),
        job(strength=0.5),
        job(settings={"data.fps": 8}),
    ]
    assert jobs[0].group == jobs[1].group
    assert len({each.group for each in jobs}) == 4
    assert len({each.shared for each in jobs}) == 3  # the clip may differ
    assert len({str(identity(each)) for each in jobs}) == 5


def test_jobs_of_one_kind_differ_in_clip_interval_and_negative_prompt():
    jobs = [job(), job("b.mp4", start=1.0, negative_prompt="y"), job(num_frames=5)]
    assert jobs[0].kind == jobs[1].kind != jobs[2].kind


@pytest.mark.parametrize("other", [job(dtype="bfloat16"), job(settings={"model.backbone.init_args.vae_tiling": True})])
def test_jobs_of_one_backbone_differ_in_all_but_its_settings(other):
    assert job().backbone == job("b.mp4", num_frames=5, settings={"model.shift": 2.0}).backbone != other.backbone


def test_where_a_job_runs_is_no_part_of_what_it_is(tmp_path):
    config = tmp_path / "my.yaml"
    config.write_text("model: {num_steps: 3}")
    here = job(config=config, device="cpu")
    there = job(config=tmp_path / ".." / tmp_path.name / "my.yaml", device="cuda:1")
    assert identity(here) == identity(there)
    assert here.group == there.group


def test_a_config_is_known_by_its_settings(tmp_path):
    one, other = tmp_path / "one.yaml", tmp_path / "other.yaml"
    one.write_text("model: {num_steps: 3}")
    other.write_text("# a comment\nmodel:\n  num_steps: 3\n")
    assert config_hash({"config": one}) == config_hash({"config": other})
    with pytest.raises(UserError, match=r"none\.yaml"):
        config_hash({"config": tmp_path / "none.yaml"})


def test_a_stamp_changes_with_the_clip(tmp_path):
    (tmp_path / "a.mp4").write_bytes(b"a")
    before = stamp_of(tmp_path / "a.mp4")
    (tmp_path / "a.mp4").write_bytes(b"ab")
    assert len({before, stamp_of(tmp_path / "a.mp4"), stamp_of(tmp_path / "none.mp4")}) == 3
