import pytest

from fastvmt_pl.errors import UserError
from fastvmt_pl.runs.options import parse_loras


@pytest.fixture(autouse=True)
def _files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for folder in ("lora", "runs/12", "runs/12:30"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "b.safetensors").touch()


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (None, {}),
        ([], {}),
        ("lora", {"lora": 1.0}),
        ("~/lora:2", {"~/lora": 2.0}),
        (["lora", "b.safetensors:0.5"], {"lora": 1.0, "b.safetensors": 0.5}),
        ("lora:-1e-1", {"lora": -0.1}),
        ("lora:+.5E+1", {"lora": 5.0}),
        ("lora:3.", {"lora": 3.0}),
        ("runs/12:30", {"runs/12:30": 1.0}),
        ("runs/12:30:0.5", {"runs/12:30": 0.5}),
        ("runs/12:31", {"runs/12": 31.0}),
        (["lora:0.5", "lora:0.25", "lora"], {"lora": 1.75}),
    ],
)
def test_a_path_that_exists_comes_before_a_weight(given, found):
    assert parse_loras(given) == found


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("", "''"),
        ("missing", "missing"),
        ("missing:0.5", "missing:0.5"),
        (":0.5", ":0.5"),
        ("lora:", "lora"),
        ("lora:strong", "strong"),
        ("lora:1.2.3", r"1\.2\.3"),
        ("lora:1_0", "1_0"),
        ("lora:nan", "nan"),
        ("lora:inf", "inf"),
        ("lora:1e999", "1e999"),
        ("lora:0.5:0.5", "lora:0.5:0.5"),
    ],
)
def test_what_is_no_path_with_a_weight_is_refused(given, named):
    with pytest.raises(UserError, match=named):
        parse_loras(["lora", given])
