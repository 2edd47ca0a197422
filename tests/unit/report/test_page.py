import json
import re

import pytest

from fastvmt_pl.report.curve import curve
from fastvmt_pl.report.page import render
from fastvmt_pl.report.reported_videos import ReportedVideo

OVERLAY = {"tracks": [[[1, 2], None]], "flow": [[[[0, 5]]]], "rows": 1, "columns": 1}


def job(prompt="a dog", **settings):
    return ReportedVideo(
        name="runs/a",
        prompt=prompt,
        clip="dog.mp4",
        settings={**settings, "seed": "3"},
        scores={"motion_fidelity": 0.5, "seconds": 2.0},
        videos={"reference": "data:video/mp4;base64,AAAA", "output": "data:video/mp4;base64,BBBB"},
        pictures={"region": "data:image/png;base64,CCCC"},
        given={"region": "10,20,30,40", "speed": "0.5"},
        overlays={"reference": OVERLAY, "output": OVERLAY},
        curves={"loss": [(0, 2.0), (5, 1.0)]},
        fps=8.0,
    )


def test_a_page_needs_no_network():
    page = render([job()], "Title")
    links = re.findall(r"(?:src|href|url)\s*[=(]\s*[\"']?([^\"'\s)>]+)", page)
    assert links
    assert all(link.startswith(("#", "data:")) for link in links)
    assert "http:" not in page
    assert "https:" not in page


def test_a_page_shows_the_region_and_what_else_a_job_was_given():
    page = render([job()], "Title")
    assert "data:image/png;base64,CCCC" in page
    assert "region 10,20,30,40" in page
    assert "speed 0.5" in page


def test_user_text_is_escaped():
    prompt = "</script><script>alert(1)</script>"
    page = render([job(prompt, model="<b>")], "<i>")
    assert "<script>alert" not in page
    assert "<b>" not in page
    assert "<i>" not in page
    data = re.search(r'id="data">(.*?)</script>', page, re.DOTALL)[1]
    assert json.loads(data)[0]["overlays"]["output"] == OVERLAY


def test_settings_that_differ_are_marked():
    page = render([job(window="5"), job(window="7")], "Title")
    assert "dog.mp4" in page
    assert "<mark>5</mark>" in page
    assert "<mark>7</mark>" in page
    assert "<mark>3</mark>" not in page  # a seed is no setting
    assert "higher is better" in page


def test_a_curve_spans_its_values():
    svg = curve("loss", [(0, 2.0), (5, 1.0), (10, 3.0)])
    points = [tuple(map(float, pair.split(","))) for pair in re.search(r'points="(.*?)"', svg)[1].split()]
    assert [x for x, _ in points] == sorted(x for x, _ in points)
    assert points[2][1] < points[0][1] < points[1][1]  # up is more
    assert "from 2 to 3, between 1 and 3" in svg


@pytest.mark.parametrize("points", [[(0, 1.0)], [(0, 1.0), (1, 1.0)]])
def test_a_flat_or_single_value_is_drawn(points):
    assert "nan" not in curve("a<b", points)
    assert "a&lt;b" in curve("a<b", points)


def test_only_finite_numbers_sort_as_numbers():
    page = render([job(rate="Infinity"), job(rate="0.1")], "Title")
    assert 'data-value="0.1"' in page
    assert 'data-value="inf"' not in page
