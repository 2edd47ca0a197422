import pytest

from fastvmt_pl.commands.options import (
    InUseError,
    claimed_folder,
    locked,
    read_config,
    read_prompts,
    shared_folder,
    slug,
)
from fastvmt_pl.errors import UserError


@pytest.mark.parametrize("claim", [claimed_folder, shared_folder])
def test_a_folder_that_a_killed_process_had_begun_is_taken_over(tmp_path, claim):
    (tmp_path / "run" / ".writing-x").mkdir(parents=True)
    with claim(tmp_path / "run", config="a: 1"):
        assert (tmp_path / "run" / "config.yaml").read_text() == "a: 1"
    with pytest.raises(ValueError, match="other settings"), claim(tmp_path / "run", config="a: 2"):
        pytest.fail("it was claimed")


@pytest.mark.parametrize("claim", [claimed_folder, shared_folder])
def test_a_folder_of_something_else_is_refused_and_left_alone(tmp_path, claim):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds no run"), claim(tmp_path, config="a: 1"):
        pytest.fail("it was claimed")
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_process_waits_as_long_as_it_is_told(tmp_path):
    with locked(tmp_path), pytest.raises(InUseError, match="at work"), locked(tmp_path, patience=0.1):
        pytest.fail("two processes have it")
    with locked(tmp_path, patience=0.1):
        pass


def test_a_config_is_a_mapping_of_settings(tmp_path):
    path = tmp_path / "config.yaml"
    for content, found in (("", {}), ("model:\ntrainer: {devices: 2}", {"model": None, "trainer": {"devices": 2}})):
        path.write_text(content)
        assert read_config(path) == found
    for content, says in (("a: [", "cannot be read"), ("- 1", "no mapping"), ("trainer: 3", "no mapping")):
        path.write_text(content)
        with pytest.raises(ValueError, match=says):
            read_config(path)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_prompts_stand_in_lines(tmp_path, encoding):
    (tmp_path / "prompts.txt").write_bytes("a größer dog\r\n\r\n  one\u2028line \n".encode(encoding))
    assert read_prompts(tmp_path / "prompts.txt") == ["a größer dog", "one\u2028line"]


@pytest.mark.parametrize("content", [b"", b"\n \n", "größer".encode("latin-1"), None])
def test_a_file_without_prompts_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "prompts.txt").write_bytes(content)
    with pytest.raises(UserError, match=r"prompts\.txt"):
        read_prompts(tmp_path / "prompts.txt")


PROMPTS = [
    "a red circle on a gray background, seen from far away",
    "a red circle on a gray background, seen from close by",
    "a red circle",
    "A red circle",
    "a red circle!",
    "a-red-circle",
    "a  red circle",
    "🐼",
    "🐼🐼",
    "!",
    40 * "赤",
    41 * "赤",
    200 * "🎈",
]


def test_other_texts_have_other_names_that_a_folder_can_have(tmp_path):
    names = {slug("clip", prompt, "0") for prompt in PROMPTS}
    assert len(names) == len(PROMPTS)
    for name in names:
        (tmp_path / name).mkdir()


def test_the_same_words_in_other_parts_have_other_names():
    parts = [("cat", "1 dog", "0"), ("cat 1", "dog", "0"), ("cat", "1", "dog 0"), ("cat-1", "dog", "0")]
    assert len({slug(*each) for each in parts}) == len(parts)


def test_a_name_that_tells_all_of_its_texts_has_no_hash():
    assert slug("my_clip", "a red circle on a gray background", "7") == "my_clip-a-red-circle-on-a-gray-background-7"
    assert slug("Clip", "x") == slug("Clip", "x") != "clip-x"
