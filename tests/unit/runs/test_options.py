import pytest

from fastvmt_pl.errors import UserError
from fastvmt_pl.files.names import slug
from fastvmt_pl.runs.options import read_prompts
from fastvmt_pl.runs.settings import read_config


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
