import os

from fastvmt_pl.report.logged_curves import read_curves


def test_repeated_steps_of_a_resumed_run_count_once(tmp_path):
    for number, rows in ((2, ["0,4.0", "1,3.0", "2,2.5"]), (10, ["2,2.0", "3,1.0", "4,nan", "5,inf"])):
        path = tmp_path / "logs" / f"version_{number}" / "metrics.csv"
        path.parent.mkdir(parents=True)
        path.write_text("\n".join(["step,loss", *rows]) + "\n")
        os.utime(path, (number, number))
    assert read_curves(tmp_path) == {"loss": [(0, 4.0), (1, 3.0), (2, 2.0), (3, 1.0)]}
