import json
import os
import signal

import pytest

from fastvmt_pl.processes import sharing
from fastvmt_pl.processes.sharing import FAILED, Failures, failure_of, share, together
from fastvmt_pl.processes.stop_request import Preempted, StopRequest


def test_what_others_are_at_is_tried_again_only_to_the_end(monkeypatch):
    monkeypatch.setattr(sharing.time, "sleep", lambda seconds: None)
    for to_the_end, expected in ((False, ["a", "b"]), (True, ["a", "b", "b", "b"])):
        tried = []

        def attempt(piece, tried=tried):
            tried.append(piece)
            return piece == "b" and tried.count("b") < 3

        share("ab", attempt, StopRequest(), to_the_end=to_the_end)
        assert tried == expected


def test_pieces_of_a_kind_come_together_and_processes_begin_with_different_kinds():
    pieces = ["a1", "b1", "c1", "a2", "b2"]
    orders = [together(pieces, lambda piece: piece[0], number) for number in range(4)]
    assert orders[:2] == [["a1", "a2", "b1", "b2", "c1"], ["b1", "b2", "c1", "a1", "a2"]]
    assert [order[0] for order in orders] == ["a1", "b1", "c1", "a1"]
    assert together([], str, 3) == []


def test_whoever_is_asked_to_stop_takes_nothing_more():
    request, tried = StopRequest(), []

    def attempt(piece):
        tried.append(piece)
        request.received = signal.SIGTERM
        return False

    with pytest.raises(Preempted):
        share("ab", attempt, request, to_the_end=True)
    assert tried == ["a"]


def test_a_failure_is_told_in_a_line_and_a_stop_is_none():
    def fail(error):
        raise error

    assert failure_of(lambda: fail(KeyError("a\nb"))) == r"'a\nb'"
    assert failure_of(lambda: fail(TypeError("two\nlines"))) == "two lines"
    assert failure_of(lambda: fail(ValueError())) == "ValueError"
    assert failure_of(lambda: None) is None
    with pytest.raises(Preempted):
        failure_of(lambda: fail(Preempted("stop")))


def test_failures_are_known_to_all_that_had_begun(tmp_path):
    here, there = Failures(tmp_path), Failures(tmp_path)
    here.record(tmp_path / "run", "no memory")
    assert here.reason(tmp_path / "run") == there.reason(tmp_path / "run") == "no memory"
    assert there.reason(tmp_path / "other") is None
    assert json.loads((tmp_path / "run" / FAILED).read_text()) == {"reason": "no memory"}
    past = (tmp_path / "run" / FAILED).stat().st_mtime - 10
    os.utime(tmp_path / "run" / FAILED, (past, past))
    assert Failures(tmp_path).reason(tmp_path / "run") is None  # a later start tries again


@pytest.mark.parametrize(("error", "is_bug"), [(ValueError("a bug"), True), (RuntimeError("no memory"), False)])
def test_work_that_fails_says_why_and_a_bug_shows_its_traceback(capsys, error, is_bug):
    def work():
        raise error

    assert sharing.failure_of(work) == str(error)
    assert ("Traceback" in capsys.readouterr().err) == is_bug
