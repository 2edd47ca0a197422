import json
import shutil
from pathlib import Path

import pytest

SHORT = ["--num-frames", "5", "--size", "32x32", "--num-steps", "2"]
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
CHROMIUM = next((path for name in NAMES if (path := shutil.which(name))), None)


@pytest.fixture(scope="module")
def page(tmp_path_factory, clip):
    """A report of two runs that differ in a setting."""
    from fastvmt_pl.cli.main import main

    folder = tmp_path_factory.mktemp("reported")
    for guided, prompt in ((1, "a red cross on a navy background"), (2, "a green circle on a gray background")):
        options = ["--num-guided-steps", str(guided), "--output", str(folder / "runs" / str(guided))]
        assert main(["transfer", clip, prompt, *SHORT, *options]) == 0
    assert main(["report", str(folder / "runs"), "--output", str(folder / "report.html"), "--title", "Two runs"]) == 0
    return folder / "report.html"


def test_a_report_is_one_file_with_all_videos_and_what_differs(page):
    content = page.read_text()
    assert content.count("data:video/mp4;base64,") == 6
    assert "model.num_guided_steps" in content
    assert "a red cross on a navy background" in content
    assert "loss/motion_flow" in content
    assert "http" not in content
    assert str(page.parent) not in content  # a page to pass on tells no path of the machine
    assert '<p class="note">2</p>' in content


def test_a_job_without_its_videos_is_left_out(page, refused, tmp_path):
    runs = tmp_path / "runs"
    shutil.copytree(page.parent / "runs", runs)
    (runs / "1" / "output.mp4").unlink()
    (runs / "3").mkdir()
    (runs / "3" / "metrics.json").write_text("{")
    (runs / "2" / "config.yaml").write_text("a: [")
    line = refused("report", "runs", code=1)
    assert "could not be read of 3 jobs or runs" in line
    assert "output.mp4" in line
    assert "3/metrics.json cannot be read" in line
    assert "the settings of runs/2: config.yaml cannot be read" in line
    assert Path("report.html").read_text().count("data:video/mp4;base64,") == 3


def test_what_a_sweep_has_scored_is_not_scored_again(page, succeed, tmp_path):
    shutil.copytree(page.parent / "runs" / "1", tmp_path / "run")
    row = {"motion_fidelity": 0.125, "path_error": 0.375, "prompt": "a red cross", "seconds": 3.0, "ssim": None}
    (tmp_path / "run" / "scores.json").write_text(json.dumps([row]))
    succeed("report", "run")
    content = Path("report.html").read_text()
    assert "0.125" in content
    assert "path_error" in content
    assert "ssim" not in content


def test_a_folder_without_runs_is_refused(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    assert "no finished run" in refused("report", "empty")
    (tmp_path / "empty" / "metrics.json").write_text("{")
    assert "cannot be read" in refused("report", "empty")
    (tmp_path / "empty" / "metrics.json").write_text('{"jobs": [{"prompt": "a dog", "seed": 0}]}')
    assert "has no reference.mp4" in refused("report", "empty")
    assert not Path("report.html").exists()


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser, page):
    """The report in a browser without a network; fails a test on errors in the console."""
    problems = []
    context = browser.new_context(offline=True, viewport={"width": 390, "height": 800})
    tab = context.new_page()
    tab.on("console", lambda message: problems.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: problems.append(str(error)))
    tab.goto(page.as_uri())
    yield tab
    context.close()
    assert problems == []


def prompts(tab):
    return tab.locator("#results tbody th").all_inner_texts()


class TestInABrowser:
    def test_headings_sort_by_mouse_and_by_keyboard(self, opened):
        red, green = prompts(opened)
        heading = opened.get_by_role("button", name="prompt")
        heading.click()
        assert prompts(opened) == [green, red]
        assert opened.locator("th[aria-sort]").get_attribute("aria-sort") == "ascending"
        heading.press("Enter")
        assert prompts(opened) == [red, green]
        column = opened.get_by_role("button", name="model.num_guided_steps")
        column.focus()
        opened.keyboard.press("Space")
        opened.keyboard.press("Space")
        assert prompts(opened) == [green, red]  # most guided steps first
        assert opened.locator("th[aria-sort]").count() == 1

    def test_videos_play_in_step_to_the_end(self, opened):
        job = opened.locator(".job").first
        times = "job => [...job.querySelectorAll('video')].map(video => video.currentTime)"
        play = job.locator(".play")
        job.evaluate("""job => { window.seen = [];
            const play = job.querySelector('.play');
            new MutationObserver(() => window.seen.push(play.textContent)).observe(play, {childList: true}); }""")
        play.click()
        opened.wait_for_function("job => job.querySelector('video').ended", arg=job.element_handle())
        opened.wait_for_function("job => job.querySelector('.play').textContent === 'Play'", arg=job.element_handle())
        assert opened.evaluate("window.seen") == ["Pause", "Play"]
        assert max(job.evaluate(times)) - min(job.evaluate(times)) < 0.13  # a frame
        assert job.locator("output").inner_text() == "5 of 5"

    def test_the_slider_goes_to_a_frame_by_keyboard(self, opened):
        job = opened.locator(".job").nth(1)
        slider = job.get_by_role("slider")
        slider.focus()
        opened.keyboard.press("ArrowRight")
        opened.keyboard.press("ArrowRight")
        assert job.locator("output").inner_text() == "3 of 5"
        times = job.evaluate("job => [...job.querySelectorAll('video')].map(video => video.currentTime)")
        assert len(set(times)) == 1

    @pytest.mark.parametrize("name", ["Tracks", "Flow"])
    def test_motion_is_drawn_over_the_videos(self, opened, name):
        job = opened.locator(".job").first
        painted = """job => { const canvas = job.querySelector('canvas');
            const pixels = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
            return pixels.data.some(value => value > 0); }"""
        job.get_by_role("slider").fill("2")
        assert not job.evaluate(painted)
        job.get_by_role("checkbox", name=name).check()
        assert job.evaluate(painted)
        job.get_by_role("checkbox", name=name).uncheck()
        assert not job.evaluate(painted)

    def test_a_phone_does_not_scroll_sideways(self, opened):
        assert opened.evaluate("document.documentElement.scrollWidth <= window.innerWidth")

    def test_it_is_dark_where_the_reader_prefers_that(self, opened):
        colours = "['backgroundColor', 'color'].map(name => getComputedStyle(document.body)[name])"
        light = opened.evaluate(colours)
        opened.emulate_media(color_scheme="dark")
        assert all(before != after for before, after in zip(light, opened.evaluate(colours), strict=True))

    def test_everything_has_a_name_for_a_screen_reader(self, opened):
        unnamed = """() => [...document.querySelectorAll('button, input, video, svg, table, section, article')]
            .filter(one => !(one.getAttribute('aria-label') || one.getAttribute('aria-labelledby')
                || one.textContent.trim() || one.closest('label'))).length"""
        assert opened.evaluate(unnamed) == 0
