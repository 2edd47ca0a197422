import json
from pathlib import Path

import pytest
import torch

from fastvmt_pl.cli.main import main
from fastvmt_pl.clips.video_writing import write_video
from fastvmt_pl.evaluation import evaluating as command
from fastvmt_pl.evaluation.opencv_trackers import LucasKanade
from fastvmt_pl.files.locks import locked_file
from fastvmt_pl.toy import ToyWorld


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """Four clips of toy size: two of one rate, one slower, one larger."""
    folder = tmp_path_factory.mktemp("evaluated")
    world = ToyWorld(48, num_objects=1, camera=False, paths=("linear",))
    write_video(folder / "a.mp4", world[0].frames, 8.0)
    write_video(folder / "b.mp4", world[1].frames, 8.0)
    write_video(folder / "slow.mp4", world[0].frames[::2], 4.0)
    write_video(folder / "large.mp4", world[0].frames.repeat_interleave(2, 1).repeat_interleave(2, 2), 8.0)
    return folder


def scores(path="evaluation.json"):
    return [pair.get("scores") for pair in json.loads(Path(path).read_text())["pairs"]]


def test_a_video_is_scored_against_its_reference(succeed, clips):
    said = succeed("evaluate", clips / "a.mp4", clips / "a.mp4", "--reconstruction", "true").out
    assert "motion_fidelity ↑" in said
    (one,) = scores()
    assert one["motion_fidelity"] == pytest.approx(1.0)
    assert one["relative_flow_error"] == 0
    assert one["ssim"] == pytest.approx(1.0, abs=1e-4)
    assert one["psnr"] is None  # infinite


@pytest.mark.parametrize("name", ["slow", "large"])
def test_clips_of_another_rate_or_size_are_aligned(succeed, clips, name):
    succeed("evaluate", clips / "a.mp4", clips / f"{name}.mp4")
    assert scores()[0]["motion_fidelity"] > 0.95


def test_a_bug_in_scoring_is_no_fault_of_the_pair(clips, monkeypatch):
    def bug(self, picture):
        raise ValueError("a bug")

    monkeypatch.setattr(LucasKanade, "points_of", bug)
    with pytest.raises(ValueError, match="a bug"):
        main(["evaluate", str(clips / "a.mp4"), str(clips / "b.mp4")])


def test_a_table_is_scored_as_far_as_it_can_be_read_and_resumes(succeed, refused, clips, monkeypatch):
    rows = ["reference,output,prompt", "a.mp4,b.mp4,a dog", "a.mp4,missing.mp4,", "a.mp4,slow.mp4,"]
    (clips / "pairs.csv").write_text("\n".join(rows) + "\n")
    line = refused("evaluate", clips / "pairs.csv", code=1)
    assert "1 of 3 pairs" in line
    assert "missing.mp4 does not exist" in line
    first, second, third = scores()
    assert second is None
    assert third["motion_fidelity"] > first["motion_fidelity"]
    write_video(clips / "missing.mp4", ToyWorld(49)[0].frames, 8.0)
    scored = []
    original = command.score_video
    monkeypatch.setattr(command, "score_video", lambda *args, **options: scored.append(1) or original(*args, **options))
    said = succeed("evaluate", clips / "pairs.csv").out
    assert len(scored) == 1  # the others are not scored again
    assert first in scores()
    assert third in scores()
    assert "| mean |" in said
    (clips / "missing.mp4").unlink()


def test_a_table_as_a_spreadsheet_writes_it(succeed, clips, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(clips))
    (tmp_path / "Pairs.CSV").write_text("Reference;Output;PROMPT\n~/a.mp4;~/a.mp4;one\u2028line\n", encoding="utf-16")
    succeed("evaluate", "Pairs.CSV")
    (pair,) = json.loads(Path("evaluation.json").read_text())["pairs"]
    assert pair["reference"] == str(clips / "a.mp4")
    assert pair["prompt"] == "one\u2028line"
    assert pair["scores"]["motion_fidelity"] == pytest.approx(1.0)


def test_one_bad_row_or_run_does_not_stop_the_others(refused, clips, tmp_path):
    (tmp_path / "unfinished").mkdir()
    rows = ["reference,output", f"{clips / 'a.mp4'},", f"{clips / 'a.mp4'},{clips / 'b.mp4'}"]
    (tmp_path / "pairs.csv").write_text("\n".join([*rows, rows[-1]]) + "\n")
    line = refused("evaluate", "pairs.csv", "unfinished", code=1)
    assert "2 of 3 pairs" in line
    assert "row 1 of pairs.csv" in line
    assert "unfinished holds no finished run" in line
    assert len(scores()) == 1  # what is named twice counts once
    lines = ["{", *[json.dumps({"reference": str(clips / "a.mp4"), "output": str(clips / "a.mp4")})], "[]"]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    assert "2 of 3 pairs" in refused("evaluate", "pairs.jsonl", "--output", "lines.json", code=1)
    assert len(scores("lines.json")) == 1


def test_all_that_is_left_out_is_named(clips, tmp_path, capsys):
    rows = ["reference,output", *[f"a{number}.mp4," for number in range(5)], f"{clips / 'a.mp4'},missing.mp4"]
    (tmp_path / "pairs.csv").write_text("\n".join(rows))
    assert main(["evaluate", "pairs.csv"]) == 1
    named = [line for line in capsys.readouterr().err.splitlines() if line.startswith("left out: ")]
    assert [f"row {number} " in line for number, line in enumerate(named[:5], 1)] == [True] * 5
    assert "missing.mp4 does not exist" in named[5]
    assert len(json.loads(Path("evaluation.json").read_text())["left_out"]) == 5


def test_pairs_of_the_same_content_are_scored_once_and_each_kept(succeed, clips, tmp_path, monkeypatch):
    scored, original = [], command.score_video
    monkeypatch.setattr(command, "score_video", lambda *args, **options: scored.append(1) or original(*args, **options))
    (tmp_path / "copy.mp4").write_bytes((clips / "b.mp4").read_bytes())
    rows = ["reference,output", f"{clips / 'a.mp4'},{clips / 'b.mp4'}", f"{clips / 'a.mp4'},copy.mp4"]
    (tmp_path / "pairs.csv").write_text("\n".join([*rows, f"{clips / 'b.mp4'},copy.mp4"]))
    said = succeed("evaluate", "pairs.csv").out
    assert "| reference | output |" in said  # as there are two references
    first, second, _ = scores()
    assert first == second
    assert len(scored) == 2


def test_two_evaluations_do_not_write_one_file_at_a_time(refused, clips, tmp_path):
    with locked_file(tmp_path / "evaluation.json"):
        assert "another process is using" in refused("evaluate", clips / "a.mp4", clips / "b.mp4")


def test_an_interrupted_evaluation_loses_nothing(succeed, clips, monkeypatch):
    rows = ["reference,output", "a.mp4,b.mp4", "a.mp4,slow.mp4", "a.mp4,large.mp4"]
    (clips / "three.csv").write_bytes("\ufeff".encode() + "\n".join(rows).encode())  # as spreadsheets write it
    result = command._result

    def stopped_at_the_second(pair, kept, score):
        if pair.output.name == "slow.mp4":
            raise KeyboardInterrupt
        return result(pair, kept, score)

    for num_kept in (1, 3):  # a first run, and one that finds all scores there
        monkeypatch.setattr(command, "_result", stopped_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            main(["evaluate", str(clips / "three.csv")])
        monkeypatch.setattr(command, "_result", result)
        assert len(scores()) == num_kept
        succeed("evaluate", clips / "three.csv")
        assert len(scores()) == 3


def test_a_run_folder_is_scored_with_its_prompts_and_baselines(succeed, clip, clips):
    options = ["--num-frames", "5", "--size", "32x32", "--num-steps", "2", "--num-guided-steps", "1"]
    succeed("transfer", clip, "a red cross on a navy background", *options, "--output", "runs/one")
    succeed("evaluate", "runs", "--output", "runs.json")
    (pair,) = json.loads(Path("runs.json").read_text())["pairs"]
    assert pair["prompt"] == "a red cross on a navy background"
    assert pair["baseline"] == "runs/one/baseline.mp4"
    assert pair["scores"]["temporal_consistency"] > 0.3


@pytest.mark.usefixtures("clips")
class TestBadInput:
    def test_what_is_no_pair_is_refused(self, refused, clips):
        assert "no finished run" in refused("evaluate", clips)
        assert "is no folder and no table" in refused("evaluate", clips / "a.mp4")
        assert "required" in refused("evaluate")

    @pytest.mark.parametrize(
        ("name", "content", "says"),
        [
            ("empty.csv", "", "is empty"),
            ("columns.csv", "source,output\n" + 100 * "a,b\n", "'reference'"),
            ("extra.csv", "reference,output,score\n" + 100 * "a,b,c\n", "score"),
            ("half.csv", "reference,output\na.mp4,\n", "row 1"),
            ("comma.csv", "reference,output,prompt\na.mp4,b.mp4,a dog, running\n", "'running'"),
            ("latin.csv", "reference,output,größe\n".encode("latin-1"), "UTF-8"),
            ("broken.jsonl", '{"reference": \n', "row 1"),
            ("open.csv", "reference,output\n" + '"' + 200_000 * "a", "cannot be read"),
            ("list.jsonl", '["a", "b"]\n', "row 1"),
            ("types.jsonl", '{"reference": "a.mp4", "output": 3}\n', "row 1"),
        ],
    )
    def test_a_bad_table_is_refused_by_its_row(self, refused, tmp_path, name, content, says):
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        line = refused("evaluate", tmp_path / name)
        assert says in line
        assert name in line
        assert line.count(name) == 1  # once, however many rows there are

    def test_a_file_keeps_what_it_holds_and_takes_one_kind_of_scores(self, succeed, refused, clips, tmp_path):
        a, b = clips / "a.mp4", clips / "b.mp4"
        succeed("evaluate", a, a)
        assert str(a) not in succeed("evaluate", a, b).out
        assert len(scores()) == 2
        assert "other settings" in refused("evaluate", a, a, "--tracker", "dense_flow")
        (tmp_path / "evaluation.json").write_text("[]")
        assert "choose another output" in refused("evaluate", a, a)

    def test_what_a_tracker_or_a_model_lacks_is_said(self, refused, clips):
        pair = [clips / "a.mp4", clips / "b.mp4"]
        assert "use cpu" in refused("evaluate", *pair, "--device", "gpu")
        assert torch.cuda.is_available() or "use cpu" in refused("evaluate", *pair, "--device", "cuda:1")
        assert "--cotracker-checkpoint" in refused("evaluate", *pair, "--tracker", "cotracker")
        assert "give a hub id or a folder" in refused("evaluate", *pair, "--clip-model", "no/model")
