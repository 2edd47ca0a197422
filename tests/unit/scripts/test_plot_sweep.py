import csv
import importlib.util
from pathlib import Path

import pytest
from PIL import Image

SCRIPT = Path(__file__).parents[3] / "scripts" / "plot_sweep.py"
SETTINGS = {
    "every 2nd": (40.0, 1.0),
    "every 3rd": (20.0, 2.0),
    "adaptive, 0.5": (25.0, 1.5),
    "adaptive, 0.9": (5.0, 3.0),
}


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("plot_sweep", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def results(tmp_path):
    """Two jobs of each setting, of which the second has 0.5 more of an error."""
    with (tmp_path / "results.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["setting", "job", "path_error", "gradients_computed"])
        for setting, (cost, score) in SETTINGS.items():
            writer.writerows([[setting, 0, score, cost], [setting, 1, score + 0.5, cost]])
    return tmp_path / "results.csv"


def test_a_setting_is_compared_with_the_curve_at_its_cost(script, results, tmp_path, capsys):
    script.main(results, tmp_path / "plot.png", compare_with="every")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in capsys.readouterr().out.splitlines()[2:]]
    assert [row[0] for row in rows] == ["adaptive, 0.9", "every 3rd", "adaptive, 0.5", "every 2nd"]
    assert [row[3] for row in rows] == ["", "", "-0.250 [-0.250, -0.250]", ""]  # 1.75 is between 1 and 2; 5 is beyond
    assert Image.open(tmp_path / "plot.png").width > 300


def test_what_is_not_there_is_named(script, results, tmp_path):
    with pytest.raises(ValueError, match="motion_fidelity"):
        script.main(results, tmp_path / "plot.png", score="motion_fidelity")
    with pytest.raises(ValueError, match="never"):
        script.main(results, tmp_path / "plot.png", compare_with="never")
