import argparse
import warnings
from typing import TypedDict, Unpack

import pytest

from fastvmt_pl.cli.words import Command, parse, with_underscores


class Shared(TypedDict, total=False):
    """Options of several commands."""

    num_steps: int | None
    loras: str | list[str] | None
    keep_it: bool | None


def work(files: list[str], check_all: bool = False, num_jobs: int = 1, **options: Unpack[Shared]) -> None:
    """Work."""


def read(*words, old=None):
    return parse("fastvmt work", "Works.", Command("At length.", work), words, old or {})


@pytest.mark.parametrize("spelling", ["--num-steps", "--num_steps"])
def test_hyphens_and_underscores_are_the_same(spelling):
    assert read("a", spelling, "3")["num_steps"] == 3
    assert read("a", f"{spelling}=3")["num_steps"] == 3


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("--check-all", True),
        ("--check_all", True),
        ("--no-check-all", False),
        ("--no_check_all", False),
        ("--check-all=true", True),
        ("--check-all=false", False),
    ],
)
def test_a_switch_takes_no_further_word(word, value):
    found = read(word, "a", "b")
    assert (found["check_all"], found["files"]) == (value, ["a", "b"])


def test_a_switch_of_shared_options_has_a_third_value():
    assert read("a").get("keep_it") is None
    assert read("a", "--keep-it")["keep_it"] is True
    assert read("a", "--no-keep-it")["keep_it"] is False


@pytest.mark.parametrize("value", ["true", "false"])
def test_a_switch_with_its_value_as_a_word_works_and_warns(value):
    with pytest.warns(FutureWarning, match="check-all"):
        found = read("a", "--check-all", value, "--num-jobs", "2")
    assert (found["check_all"], found["num_jobs"]) == (value == "true", 2)


def test_an_old_spelling_works_and_names_the_new_one():
    with pytest.warns(FutureWarning, match="--num-steps"):
        assert read("a", "--steps=3", old={"steps": "num_steps"})["num_steps"] == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read("a", "--num-steps=3", old={"steps": "num_steps"})


def test_a_list_may_be_given_word_by_word():
    assert read("a", "--loras", "b:0.5")["loras"] == ["b:0.5"]
    assert read("a", "--loras", "b:0.5", "--num-jobs=2", "--loras=c")["loras"] == ["b:0.5", "c"]
    assert read("a", '--loras=["b", "c"]')["loras"] == ["b", "c"]


@pytest.mark.parametrize(
    "words", [["a", "--loras"], ["a", "--no-num-jobs"], ["a", "--no-check-all=true"], ["a", "--num-jobs=many"], []]
)
def test_other_words_are_refused(words):
    with pytest.raises(argparse.ArgumentError):
        read(*words)


def test_words_after_two_hyphens_are_taken_as_they_are():
    assert read("--", "--a_file")["files"] == ["--a_file"]


@pytest.mark.parametrize(
    ("words", "read"),
    [
        (["--no-model.baseline"], ["--model.baseline=false"]),
        (["--no_data.keep_motion", "word"], ["--data.keep_motion=false", "word"]),
        (["--data.keep-motion", "--config=a-b.yaml"], ["--data.keep_motion=true", "--config=a-b.yaml"]),
        (["--model.baseline"], ["--model.baseline=true"]),
        (["--model.baseline", "false"], ["--model.baseline", "false"]),
        (["--model.backbone.help", "--help"], ["--model.backbone.help", "--help"]),
        (["--print-config"], ["--print_config"]),
    ],
    ids=str,
)
def test_a_dotted_option_without_a_value_is_a_switch(words, read):
    assert with_underscores(words) == read


def test_values_keep_their_hyphens():
    assert with_underscores(["--data.cache-dir=my-cache", "--config", "my-config.yaml", "-c", "a-b"]) == [
        "--data.cache_dir=my-cache",
        "--config",
        "my-config.yaml",
        "-c",
        "a-b",
    ]
