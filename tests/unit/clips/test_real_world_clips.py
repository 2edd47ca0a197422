import importlib.util
import sys
from contextlib import nullcontext
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "scripts" / "real_world_clips.py"


def load():
    spec = importlib.util.spec_from_file_location("real_world_clips", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where its dataclasses look for their module
    spec.loader.exec_module(module)
    return module


SUBJECT = load()


# FFmpeg takes seconds to compute a mapping of colours; PQ's stands for the others.
MARKS = {
    name: [pytest.mark.slow]
    for name in ("HLG, black, reference white and peak", "HLG turned by 90, as of a phone", "gray in Display P3")
}
WARNINGS = {"brightness": "dynamic range", "combs": "interlaced"}
CASES = [
    pytest.param(case, id=f"{case.subject}: {case.name}", marks=MARKS.get(case.name, ())) for case in SUBJECT.CASES
]


@pytest.mark.parametrize("case", CASES)
def test_a_clip_is_read_as_a_player_shows_it(case, tmp_path):
    path = case.make(tmp_path)
    with pytest.warns(match=WARNINGS[case.subject]) if case.subject in WARNINGS else nullcontext():
        found = case.read(path)
    assert SUBJECT.is_right(case, found), (case.right, found)
