from fastvmt_pl.experiments.summary import summarise

COSTS = {"gradients_computed": 3, "seconds": 2.0, "gradient_peak_mib": None}


def cells(summary):
    head, _, *lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in summary.splitlines()]
    return {line[0]: dict(zip(head, line, strict=True)) for line in lines}


def test_settings_are_compared_job_by_job():
    errors = {"first": [0.2, 0.4], "second": [0.5, 0.8, 0.9]}
    rows = [
        {"setting": setting, "job": job, "path_error": error, "local_motion_fidelity": 0.0, **COSTS}
        for setting, found in errors.items()
        for job, error in enumerate(found)
    ]
    found = cells(summarise(rows, "first"))
    assert found["first"]["path_error"].startswith("0.300 [")
    less = next(name for name in found["second"] if name.endswith("first"))
    assert found["second"][less].startswith("0.350 [")  # of the two jobs that both have
    assert found["first"][less] == ""
    assert found["second"]["gradients_computed"] == "3.0"
    assert found["second"]["gradient_peak_mib"] == ""


def test_without_true_paths_the_local_motion_fidelity_decides():
    rows = [{"setting": "only", "job": 0, "local_motion_fidelity": 0.25, "motion_fidelity": 0.5, **COSTS}]
    found = cells(summarise(rows, "only"))["only"]
    assert found["local_motion_fidelity"] == "0.250"  # too few for an interval
    assert found["motion_fidelity"] == "0.500"


def test_nothing_finished_is_an_empty_table():
    assert cells(summarise([], "first")) == {}
