import json

import pytest
import yaml

from fastvmt_pl.errors import UserError
from fastvmt_pl.experiments.experiment import Experiment, ToyClips, read_experiment
from fastvmt_pl.runs.options import CONFIGS


def test_a_grid_is_every_combination():
    plan = Experiment(ToyClips(1), grid={"a.b": [1, None], "c": ["x"]}, settings={"plain": {}})
    assert plan.all_settings == {
        "plain": {},
        'b 1, c "x"': {"a.b": 1, "c": "x"},
        'b null, c "x"': {"a.b": None, "c": "x"},
    }
    assert plan.reference == "plain"
    assert json.dumps(plan.all_settings)


def test_paths_start_at_the_experiment(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "my.yaml").write_text("")
    jobs = [{"clip": "a.mp4", "prompt": "x"}, {"clip": "~/b.mp4", "prompt": "y"}]
    plan = {"jobs": jobs, "config": "my.yaml", "settings": {"plain": {}}}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))
    found = read_experiment(tmp_path / "plan.yaml")
    assert found.config == str(tmp_path / "my.yaml")
    assert [one.clip for one in found.jobs] == [tmp_path / "a.mp4", tmp_path / "home" / "b.mp4"]
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump({**plan, "config": "wan_tiny.yaml"}))
    assert read_experiment(tmp_path / "plan.yaml").config == str(CONFIGS / "wan_tiny.yaml")


@pytest.mark.parametrize("content", ["[1, 2]", "a: [", None])
def test_what_is_no_experiment_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "plan.yaml").write_text(content)
    with pytest.raises(UserError, match=r"plan\.yaml"):
        read_experiment(tmp_path / "plan.yaml")
