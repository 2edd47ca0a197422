import csv

import pytest

from fastvmt_pl.errors import UserError
from fastvmt_pl.joblists.job import Outcome
from fastvmt_pl.joblists.job_outcomes import conclude, write_csv

DONE, FAILED, REFUSED = Outcome("a", "done"), Outcome("b", "failed", "no memory"), Outcome("c", "refused", "no clip")


def test_the_end_of_a_list_says_what_failed_and_why(capsys):
    conclude([DONE, DONE], "there")
    assert "there" in capsys.readouterr().out
    with pytest.raises(RuntimeError, match="no memory"):
        conclude([DONE, FAILED, REFUSED], "there")
    said = capsys.readouterr().out
    assert all(text in said for text in ("b", "no memory", "c", "no clip"))
    with pytest.raises(UserError, match="no clip"):  # since nothing could run
        conclude([REFUSED], "there")


def test_a_table_has_a_column_for_whatever_a_row_has(tmp_path):
    write_csv(tmp_path / "a.csv", [{"x": 1}, {"x": 2, "y": None}])
    with (tmp_path / "a.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [{"x": "1", "y": ""}, {"x": "2", "y": ""}]
