import pytest
import torch

from fastvmt_pl.clips import read_clip, read_image
from fastvmt_pl.experiments.experiment import ClipWithPrompt, Experiment, ToyClips, read_experiment
from fastvmt_pl.experiments.trials import make_trials
from fastvmt_pl.joblists.job_check import JobCheck
from fastvmt_pl.joblists.job_runner import JobRunner
from fastvmt_pl.processes.ranks import Rank
from fastvmt_pl.processes.stop_request import StopRequest
from fastvmt_pl.runs.options import CONFIGS
from fastvmt_pl.toy.toy_jobs import toy_jobs
from fastvmt_pl.toy.toy_tracker import centroids, colour_mask, score

CONFIG = str(CONFIGS / "wan_tiny.yaml")


def test_every_clip_is_a_job_of_every_setting_and_its_place_is_its_seed(tmp_path):
    clips = [ClipWithPrompt(tmp_path / f"{name}.mp4", name) for name in "ab"]
    common = {"data.num_frames": 5, "model.shift": 3.0}
    plan = Experiment(clips, {"plain": {}, "other": {"model.shift": 2.0}}, config=CONFIG, common=common)
    trials = make_trials(plan, tmp_path)
    assert [(trial.setting, trial.number) for trial in trials] == [
        ("plain", 0),
        ("plain", 1),
        ("other", 0),
        ("other", 1),
    ]
    assert [(trial.job.prompt, trial.job.seed) for trial in trials] == [("a", 0), ("b", 1)] * 2
    assert [trial.job.settings["model.shift"] for trial in trials] == [3.0, 3.0, 2.0, 2.0]
    assert trials[0].job.shared == trials[1].job.shared  # they can run side by side
    assert len({trial.job.name for trial in trials}) == 4
    changed = make_trials(Experiment(clips, {"plain": {"model.shift": 2.0}}, config=CONFIG, common=common), tmp_path)
    assert not {trial.job.name for trial in changed} & {trial.job.name for trial in trials}


def test_toy_clips_are_written_and_judged_by_their_true_paths(tmp_path):
    plan = Experiment(ToyClips(2, split="test"), {"plain": {}}, config=CONFIG)
    for trial, expected in zip(make_trials(plan, tmp_path), toy_jobs(2, "test"), strict=True):
        assert torch.equal(trial.toy.clip.frames, expected.clip.frames)
        written = read_clip(trial.job.clip, len(expected.clip.frames)).frames
        assert (written.float() - expected.clip.frames.float()).abs().mean() < 5  # as a codec leaves them
        judged = trial.toy.judge(expected.clip.frames)
        assert judged["path_error"] == pytest.approx(expected.judge(expected.clip.frames)["path_error"])
    moving = {trial.job.clip for trial in make_trials(plan, tmp_path)}
    plan.jobs.camera = True
    assert not {trial.job.clip for trial in make_trials(plan, tmp_path)} & moving  # another clip, another file


def test_toy_images_show_the_prompts_object_where_the_clips_object_starts(tmp_path):
    plan = Experiment(ToyClips(3, split="test", images=True), {"plain": {}}, config=CONFIG)
    for trial in make_trials(plan, tmp_path):
        image = read_image(trial.job.image)
        assert torch.equal(image, trial.toy.image)
        found = score(image[None], trial.toy.item, trial.toy.background)
        assert (found.present, found.background) == (1, 1)
        (centre,) = centroids(colour_mask(image[None], trial.toy.item.colour))
        assert (centre - trial.toy.clip.trajectories[0, 0]).norm() < 1
        assert trial.toy.judge(image.expand(17, -1, -1, -1))["image_psnr"] > 60
        assert trial.toy.judge(trial.toy.clip.frames)["image_psnr"] < 30


def test_toy_regions_and_places_are_settings_of_their_jobs_that_a_setting_may_do_without(tmp_path):
    jobs = ToyClips(2, split="test", images=True, elsewhere=True, region=0)
    plan = Experiment(jobs, {"with": {}, "without": {"data.region": None, "data.place": None}}, config=CONFIG)
    trials = make_trials(plan, tmp_path)
    for trial in trials[:2]:
        masks = read_clip(trial.job.settings["data.region"], 17, fps=8.0).frames
        assert torch.equal(masks[..., 0] > 127, trial.toy.region)
        assert trial.job.settings["data.place"] == list(trial.toy.place)
    assert all(trial.job.settings["data.region"] is None for trial in trials[2:])


@pytest.mark.parametrize("path", sorted((CONFIGS / "experiment").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_experiment_can_run(path, tmp_path):
    plan = read_experiment(path)
    assert isinstance(plan.jobs, ToyClips)
    assert plan.jobs.num_jobs >= 32
    plan.jobs.num_jobs = 1
    check = JobCheck(JobRunner(tmp_path, Rank(0, 0, False), StopRequest()).compose_settings)
    for trial in make_trials(plan, tmp_path):
        assert check.needs(trial.job).cost > 0
