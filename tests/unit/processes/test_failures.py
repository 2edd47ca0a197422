import json
import os

import pytest

from fastvmt_pl.processes.failures import FAILED, Failures, failure_of
from fastvmt_pl.processes.stop_request import Preempted


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

    assert failure_of(work) == str(error)
    assert ("Traceback" in capsys.readouterr().err) == is_bug
