"""The steps that are not guided, with a cache that leaves blocks out."""

from contextlib import ExitStack
from functools import partial

import pytest
import torch

from fastvmt_pl.backbones import DiffusersBackbone
from fastvmt_pl.backbones.step_cache import StepCache
from fastvmt_pl.callbacks import LastCheckpoint
from fastvmt_pl.errors import UserError
from fastvmt_pl.method.finish import Finish
from fastvmt_pl.method.motion_transfer import MotionTransfer
from fastvmt_pl.method.optimizers import NormalizedGradientDescent
from fastvmt_pl.method.sampling import denoise

DESCENT = partial(NormalizedGradientDescent, lr=0.02)
OPTIONS = {"optimizer": DESCENT, "num_steps": 6, "guidance_scale": 1.0, "keep_trajectory": True}
ALWAYS, NEVER = StepCache("first_block", 1e3), StepCache("first_block", 1e-9)
CACHES = {
    "first block": ALWAYS,
    "mag": StepCache("mag", 1e3, [1.0, 1.1, 1.0]),
    "sea": StepCache("sea", 1e3),
}
PROMPTS = ("a red cross on a navy background", "a blue circle on a gray background")


@pytest.fixture
def reusing(backbone):
    """Have all blocks but the first replaced by what they added in the first pass."""
    first, last = backbone.transformer.blocks[0], backbone.transformer.blocks[-1]
    kept = {}

    def reuse(module, args, output):
        kept.setdefault("residual", output - kept["first"])
        return kept["first"] + kept["residual"]

    with ExitStack() as stack:
        stack.callback(first.register_forward_hook(lambda *seen: kept.update(first=seen[-1])).remove)
        stack.callback(last.register_forward_hook(reuse).remove)
        yield


def test_guided_steps_are_plain_and_the_others_reuse_what_blocks_added(fit, backbone, request):
    module, plain = fit(step_cache=ALWAYS, **OPTIONS), fit(**OPTIONS)
    guided = module.num_guided_steps
    assert torch.equal(module.result.trajectory[:, : guided + 1], plain.result.trajectory[:, : guided + 1])
    assert module.cached_passes == (1, 4)
    request.getfixturevalue("reusing")
    latents = plain.result.trajectory[:, guided]
    for step in range(guided, module.num_steps):
        velocity = backbone.velocity(latents, module.timestep(step), module.condition)
        latents = denoise(velocity, latents, module.sigmas, step)
    torch.testing.assert_close(module.result.latents, latents)


def test_a_cache_that_is_never_used_changes_nothing(fit):
    module = fit(step_cache=NEVER, **OPTIONS)
    assert module.cached_passes == (4, 4)
    assert torch.equal(module.result.latents, fit(**OPTIONS).result.latents)


@pytest.mark.parametrize("cache", CACHES.values(), ids=CACHES)
def test_a_job_does_not_depend_on_the_others_of_its_batch(fit, cache):
    options = OPTIONS | {"guidance_scale": 3.0, "num_guided_steps": 0}
    both = fit(step_cache=cache, prompts=PROMPTS, **options)
    whole, passes = both.cached_passes
    assert 0 < whole < passes == 24
    for job in range(2):
        alone = fit(step_cache=cache, prompts=PROMPTS[job : job + 1], seed=job, **options)
        assert torch.equal(alone.result.latents[0], both.result.latents[job])


@pytest.mark.parametrize("cache", CACHES.values(), ids=CACHES)
def test_the_model_is_plain_again_afterwards(fit, backbone, cache):
    before = fit(**OPTIONS).result.latents
    first, second = (fit(step_cache=cache, **OPTIONS).result.latents for _ in range(2))
    assert torch.equal(first, second)
    assert not backbone.transformer.is_cache_enabled
    assert torch.equal(fit(**OPTIONS).result.latents, before)


def test_the_baseline_has_the_cache_in_the_same_steps(fit):
    module = fit(step_cache=ALWAYS, baseline=True, **OPTIONS)
    plain = fit(step_cache=ALWAYS, **OPTIONS | {"num_guided_steps": 0})
    assert not torch.equal(module.baseline_latents, plain.result.latents)
    assert torch.equal(fit(baseline=True, **OPTIONS).result.trajectory[:, 0], plain.result.trajectory[:, 0])


@pytest.mark.parametrize("done", [1, 3, 5, 9, 12])
def test_a_killed_run_goes_on_from_before_the_cache(fit, tmp_path, monkeypatch, done):
    options = OPTIONS | {"step_cache": StepCache("first_block", 0.3), "baseline": True}
    whole = fit(**options)
    denoised, calls = MotionTransfer.denoised, []

    def killed(self, *args):
        calls.append(args)
        if len(calls) == done:
            self.save_last_checkpoint()  # as on a signal
            raise KeyboardInterrupt
        self.saved_at = 0  # a checkpoint is due after every step
        return denoised(self, *args)

    monkeypatch.setattr(MotionTransfer, "denoised", killed)
    with pytest.raises(SystemExit):
        fit([LastCheckpoint(tmp_path / "run")], **options)
    monkeypatch.undo()
    last = tmp_path / "run" / "last.ckpt"
    resumed = fit([LastCheckpoint(tmp_path / "run")], ckpt_path=last if last.exists() else None, **options)
    for name in ("latents", "baseline", "trajectory"):
        assert torch.equal(getattr(resumed.result, name), getattr(whole.result, name))
    assert resumed.cached_passes == whole.cached_passes


def test_a_finish_has_no_cache(fit):
    finish = Finish({"wan-tiny-few-steps": 1.0}, num_steps=4)
    module = fit(step_cache=ALWAYS, finish=finish, **OPTIONS)
    assert module.cached_passes is None
    assert torch.equal(module.result.latents, fit(finish=finish, **OPTIONS).result.latents)


def test_ratios_are_those_of_each_transformers_own_steps():
    cache = StepCache("mag", mag_ratios=[1.0, 1.25, 1.5])
    assert cache.config([2, 3], num_steps=5).mag_ratios.tolist() == [1.25, 1.5]
    assert cache.config([0, 1, 2], num_steps=3).mag_ratios.tolist() == [1.0, 1.25, 1.5]


def test_what_cannot_be_is_refused_before_weights_are_read(tmp_path):
    backbone = DiffusersBackbone("wan-tiny")
    with pytest.raises(UserError, match="mag_ratios"):
        StepCache("mag")
    with pytest.raises(UserError, match="mag_ratios"):
        StepCache("sea", mag_ratios=[1.0])
    with pytest.raises(UserError, match="threshold"):
        StepCache("sea", threshold=0.0)
    assert not backbone.experts
