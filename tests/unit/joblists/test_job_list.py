import json
import tarfile
from io import BytesIO
from pathlib import Path

import pytest

from fastvmt_pl.joblists.job_list import read_jobs

ROWS = [
    {"clip": "a.mp4", "prompt": "a red cross", "seed": 3},
    {"name": "second", "clip": "b/c.mp4", "prompt": "a blue circle", "num_steps": 20, "model.num_inner_steps": 2},
]


def as_csv(rows):
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = [columns, *([str(row.get(name, "")) for name in columns] for row in rows)]
    return "\n".join(",".join(line) for line in lines)


WRITERS = {
    "csv": as_csv,
    "jsonl": lambda rows: "\n".join(json.dumps(row) for row in rows) + "\n\n",
    "yaml": json.dumps,  # which YAML contains
}


@pytest.fixture
def read(tmp_path):
    def read(rows, ending="jsonl", **options):
        path = tmp_path / f"list.{ending}"
        path.write_text(rows if isinstance(rows, str) else WRITERS[ending](rows))
        return read_jobs(path, options, tmp_path / "clips")

    return read


@pytest.mark.parametrize("ending", WRITERS)
def test_every_kind_of_table_gives_the_same_jobs(read, tmp_path, ending):
    jobs, refused = read(ROWS, ending, num_steps=30, dtype="bfloat16")
    assert not refused
    first, second = jobs
    assert (first.name, first.clip, first.prompt, first.seed) == (
        "a-a-red-cross-3",
        tmp_path / "a.mp4",
        "a red cross",
        3,
    )
    assert first.options == {"num_steps": 30, "dtype": "bfloat16"}
    assert (second.name, second.clip, second.seed) == ("second", tmp_path / "b" / "c.mp4", 0)
    assert second.options == {"num_steps": 20, "dtype": "bfloat16"}
    assert {name: int(value) for name, value in second.settings.items()} == {"model.num_inner_steps": 2}


def test_a_list_as_a_spreadsheet_writes_it(read, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    lines = ["Name;Clip; Prompt ;Guided Steps", ";~/a.mp4;a cross; red;", ';b.mp4;"a dot; blue";4']
    (tmp_path / "list.csv").write_text("\r\n".join(lines), encoding="utf-16")
    jobs, refused = read_jobs(tmp_path / "list.csv", {}, tmp_path)
    assert [refusal.name for refusal in refused] == ["row 1 of list.csv"]  # whose prompt is torn
    assert [(job.clip, job.prompt, job.options) for job in jobs] == [
        (tmp_path / "b.mp4", "a dot; blue", {"num_guided_steps": 4})
    ]
    (tmp_path / "list.csv").write_text("\t".join(["CLIP", "PROMPT"]) + "\n~/a.mp4\tx", encoding="utf-8-sig")
    jobs, refused = read_jobs(tmp_path / "list.csv", {}, tmp_path)
    assert not refused
    assert [job.clip for job in jobs] == [tmp_path / "home" / "a.mp4"]


@pytest.mark.parametrize("ending", ["jsonl", "yaml"])
def test_a_prompt_keeps_its_line_separators(read, ending):
    row = json.dumps({"clip": "a.mp4", "prompt": "a\u2028b\u0085c"}, ensure_ascii=ending == "yaml")
    jobs, refused = read(row if ending == "jsonl" else f"[{row}]", ending)
    assert not refused
    assert [job.prompt for job in jobs] == ["a\u2028b\u0085c"]


def test_a_row_may_have_several_prompts(read):
    jobs, _ = read([{"name": "m", "clip": "a.mp4", "prompts": ["x", "y"]}, {"clip": "a.mp4", "prompts": ["x", "y"]}])
    assert [job.name for job in jobs] == ["m-0", "m-1", "a-x-0", "a-y-0"]
    assert len({job.group for job in jobs}) == 1


def test_a_tar_file_of_clips_and_prompts(tmp_path):
    path = tmp_path / "set.tar"
    with tarfile.open(path, "w") as tar:
        for name, content in {
            f"{50 * 'k'}1.mp4": b"video",
            f"{50 * 'k'}1.txt": b"a cross",
            f"{50 * 'k'}2.mp4": b"other",
            f"{50 * 'k'}2.txt": "\ufeffa dot".encode(),
            "mute.mp4": b"more",
        }.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, BytesIO(content))
    for _ in range(2):  # unpacked once
        jobs, refused = read_jobs(path, {}, tmp_path / "clips")
        assert [(job.prompt, job.clip.read_bytes()) for job in jobs] == [("a cross", b"video"), ("a dot", b"other")]
        assert [job.name.rsplit("-", 1)[0] for job in jobs] == 2 * ["set-" + 40 * "k"]
        assert "no txt" in refused[0].detail


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("{not json", "{not json"),
        ('["a", "b"]', '["a", "b"]'),
        ({"prompt": "x"}, "clip"),
        ({"clip": "a.mp4"}, "prompt"),
        ({"clip": "a.mp4", "prompt": "  "}, "prompts are"),
        ({"clip": "a.mp4", "prompts": []}, "prompts are"),
        ({"clip": "a.mp4", "prompts": "x"}, "prompts is 'x'"),
        ({"clip": "a.mp4", "prompt": "x", "seed": "one"}, "seed is 'one'"),
        ({"clip": "a.mp4", "prompt": "x", "seed": -1}, "seed is -1"),
        ({"clip": "a.mp4", "prompt": "x", "stepz": 3}, "'stepz'"),
        ({"clip": "a.mp4", "prompt": "x", "num_steps": "many"}, "num_steps"),
        ({"clip": "a.mp4", "prompt": "x", "device": "cpu"}, "'device'"),
        ({"clip": "a.mp4", "prompt": "x", "data.seed": 3}, "data.seed"),
        ({"clip": "a.mp4", "prompt": "x", "name": "../x"}, "name is"),
        ({"clip": "a.mp4", "prompt": "x", "name": ".x"}, "name is"),
        ({"clip": "a.mp4", "prompt": "x", "name": 201 * "x"}, "at most 200 bytes"),
        ({"clip": "a.mp4", "prompt": "x", "name": "good"}, "'good'"),
        ({"clip": "a.mp4", "prompt": "x", "config": "none.yaml"}, "none.yaml"),
        ({"clip": "a.mp4", "prompt": "x", "start": 2, "end": 1}, "start is 2"),
        ({"clip": "a.mp4", "prompt": "x", "Prompt": "y"}, "'prompt'"),
    ],
    ids=str,
)
def test_a_bad_row_is_refused_by_its_place_and_the_others_stay(read, row, says):
    bad = row if isinstance(row, str) else json.dumps(row)
    jobs, refused = read('{"name": "good", "clip": "a.mp4", "prompt": "x"}\n' + bad)
    assert [job.name for job in jobs] == ["good"]
    assert refused[0].name.startswith("row 2 of list.jsonl")
    assert says in refused[0].detail


@pytest.mark.parametrize(
    ("ending", "content", "says"),
    [
        ("txt", "x", "'.txt'"),
        ("jsonl", "", "is empty"),
        ("yaml", "a: 1", "list.yaml"),
        ("yaml", "[", "cannot be read"),
        ("csv", "clip,prompt\n", "is empty"),
        ("csv", "clip,text\n" + 100 * "a.mp4,x\n", "no column 'prompt'"),
        ("csv", "clip,prompt,stepz\n" + 100 * "a.mp4,x,3\n", "'stepz'"),
        ("csv", "clip,prompt,data.seed\na.mp4,x,3\n", "data.seed"),
    ],
)
def test_a_list_that_is_none_is_refused(read, ending, content, says):
    with pytest.raises(ValueError, match=says):
        read(content, ending)


def test_a_list_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"none\.csv"):
        read_jobs(Path("none.csv"), {}, tmp_path)
