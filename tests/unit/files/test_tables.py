import csv
import io
import json
from pathlib import Path

import pytest

from fastvmt_pl.errors import UserError
from fastvmt_pl.files.tables import lines_of, path_in_table, read_rows, read_text

NEEDED = ("clip", "prompt")


@pytest.fixture
def rows(tmp_path):
    def rows(content, ending="csv", check_names=lambda names: None):
        path = tmp_path / f"table.{ending}"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return list(read_rows(path, NEEDED, check_names))

    return rows


def as_csv(rows, **form):
    file = io.StringIO()
    csv.writer(file, **form).writerows(rows)
    return file.getvalue()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_an_encoding_is_recognised_by_its_byte_order_mark(tmp_path, encoding):
    (tmp_path / "text").write_bytes("größer\n🐼".encode(encoding))
    assert read_text(tmp_path / "text") == "größer\n🐼"


@pytest.mark.parametrize("content", ["größer".encode("latin-1"), "a,b".encode("utf-16-le"), b"\xff\xfea"])
def test_another_encoding_is_refused(tmp_path, content):
    (tmp_path / "text").write_bytes(content)
    with pytest.raises(UserError, match="UTF-8"):
        read_text(tmp_path / "text")


def test_only_line_ends_end_a_line():
    inside = "a\u2028b\u0085c\x0bd\x1ce"
    assert lines_of(f"{inside}\r\n\rx\ny") == [inside, "", "x", "y"]


def test_a_separator_line_for_excel_is_not_the_header(rows):
    assert rows(b"sep=;\r\nclip;prompt\r\na.mp4;a cat\r\n") == [{"clip": "a.mp4", "prompt": "a cat"}]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_commas_semicolons_and_tabs_separate_columns(rows, delimiter, encoding):
    cells = [
        [" Clip ", "PROMPT", "Guided Steps", "model.Loss", ""],
        ["a.mp4", 'a, b; c\td "e"\nf', "2", "x", ""],
        ["", " ", "", "", ""],
        ["b.mp4", " d\u2028e ", "", "", ""],
    ]
    assert rows(as_csv(cells, delimiter=delimiter).encode(encoding)) == [
        {"clip": "a.mp4", "prompt": 'a, b; c\td "e"\nf', "guided_steps": "2", "model.Loss": "x"},
        {"clip": "b.mp4", "prompt": "d\u2028e"},
    ]


def test_spaces_after_commas_do_not_matter(rows):
    assert rows('clip, prompt\na.mp4, "a, b"\n') == [{"clip": "a.mp4", "prompt": "a, b"}]


def test_an_unquoted_comma_only_affects_its_row(rows):
    bad, good = rows("clip,prompt\na.mp4,a dog, running\na.mp4,a cat\n")
    assert isinstance(bad, UserError)
    assert "'running'" in str(bad)
    assert good == {"clip": "a.mp4", "prompt": "a cat"}


@pytest.mark.parametrize(
    ("content", "offender"),
    [
        ("source,output\n" + 1000 * "a,b\n", "'clip'"),
        ("clip,prompt,Prompt\na,b,c\n", "'prompt'"),
        ('clip,prompt\na,"b\n', "line 2"),
        ('clip,prompt\na,"b" c\n', "line 2"),
    ],
)
def test_a_bad_table_is_refused_once(rows, content, offender):
    with pytest.raises(UserError, match=offender):
        rows(content)


def test_an_unknown_column_is_refused_once(rows):
    def check(names):
        raise UserError(f"no {names[-1]}")

    with pytest.raises(UserError, match="no colour"):
        rows("clip,prompt,colour\n" + 1000 * "a,b,c\n", check_names=check)


def test_separators_inside_a_line_of_json_are_kept(rows):
    prompt = "a\u2028b\u0085c"
    lines = [json.dumps({"clip": "a.mp4", "Prompt": prompt}, ensure_ascii=False), "", '{"clip": "b.mp4"}']
    assert rows("\r\n".join(lines), "jsonl") == [{"clip": "a.mp4", "prompt": prompt}, {"clip": "b.mp4"}]


@pytest.mark.parametrize("line", ["{", "[1]", '{"clip": "a", "clip": "b"}', '{"clip": "a", " Clip": "b"}'])
def test_a_bad_line_of_json_does_not_stop_the_others(rows, line):
    bad, good = rows(line + '\n{"clip": "b.mp4"}', "jsonl")
    assert isinstance(bad, UserError)
    assert good == {"clip": "b.mp4"}


def test_paths_are_relative_to_the_table_or_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    cells = ("a.mp4", "~/a.mp4", "/a.mp4")
    assert [str(path_in_table(cell, Path("lists"))) for cell in cells] == ["lists/a.mp4", "/home/me/a.mp4", "/a.mp4"]
