import csv
import json

import pytest

from fastvmt_pl.callbacks.run_folder import METRICS
from fastvmt_pl.evaluation.finished_runs import SCORES
from fastvmt_pl.experiments.experiment import ClipWithPrompt, Experiment
from fastvmt_pl.experiments.results_table import ResultsTable
from fastvmt_pl.experiments.trials import make_trials
from fastvmt_pl.files.locks import locked_file
from fastvmt_pl.runs.options import CONFIGS


@pytest.fixture
def trials(tmp_path):
    clips = [ClipWithPrompt(tmp_path / "a.mp4", "x")]
    plan = Experiment(clips, {"one": {}, "two": {"model.shift": 2.0}}, config=str(CONFIGS / "wan_tiny.yaml"))
    return make_trials(plan, tmp_path)


@pytest.fixture
def finish(tmp_path):
    """Writes what a finished job leaves."""

    def finish(trial, error):
        folder = tmp_path / "jobs" / trial.job.name
        folder.mkdir(parents=True)
        (folder / SCORES).write_text(json.dumps([{"path_error": error}]))
        (folder / METRICS).write_text(json.dumps({"jobs": [{"prompt": "x", "seconds": 1.5}]}))

    return finish


def rows_of(table):
    with table.path.open(newline="") as file:
        return [(row["setting"], row["job"], row["seconds"], row["path_error"]) for row in csv.DictReader(file)]


def test_rows_come_in_the_order_of_the_settings_whatever_is_finished_first(tmp_path, trials, finish):
    table = ResultsTable(tmp_path, trials, update_seconds=0.0)
    finish(trials[1], 0.5)
    table.update()
    assert rows_of(table) == [("two", "0", "1.5", "0.5")]
    finish(trials[0], None)
    assert [row["setting"] for row in table.finish()] == ["one", "two"]
    assert rows_of(table) == [("one", "0", "1.5", ""), ("two", "0", "1.5", "0.5")]


def test_the_table_is_left_alone_until_an_update_is_due(tmp_path, trials):
    table = ResultsTable(tmp_path, trials)
    table.update()
    assert not table.path.exists()


def test_a_process_that_was_halted_while_it_wrote_stops_no_other(tmp_path, trials, finish):
    table = ResultsTable(tmp_path, trials, update_seconds=0.0, patience=0.1)
    finish(trials[0], 0.5)
    with locked_file(table.path):
        table.update()
        assert not table.path.exists()
        table.finish()
    assert len(rows_of(table)) == 1
