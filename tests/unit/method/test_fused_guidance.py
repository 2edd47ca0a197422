"""Guidance whose gradient comes from the denoising step's own forward pass."""

from functools import partial

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from fastvmt_pl.callbacks import GradientCache
from fastvmt_pl.errors import UserError
from fastvmt_pl.method.optimizers import NormalizedGradientDescent, scale_per_job
from fastvmt_pl.method.sampling import denoise

PROMPTS = ("a red cross on a navy background", "a blue circle on a gray background")
DESCENT = partial(NormalizedGradientDescent, lr=0.02, momentum=0.5)


@pytest.fixture
def passes(backbone, monkeypatch):
    """The kind and the number of jobs of each forward pass after the reference's."""
    done = []
    for name in ("capture", "velocity"):
        method = getattr(backbone, name)

        def counted(latents, *args, name=name, method=method, **options):
            done.append((name, len(latents)))
            return method(latents, *args, **options)

        monkeypatch.setattr(backbone, name, counted)
    return done


@pytest.mark.parametrize(("num_steps", "tolerance"), [(1, 2e-5), (4, 1e-4)])
def test_it_is_a_loop_of_separate_passes(fit, backbone, num_steps, tolerance):
    """A step predicts, moves along the gradients so far, and denoises by what it had predicted before it moved."""
    options = {"num_steps": num_steps, "num_guided_steps": min(2, num_steps), "num_inner_steps": 3, "final_rate": 0.5}
    module = fit(guidance="fused", optimizer=DESCENT, clips=2, prompts=PROMPTS, **options)
    targets, latents = module.trainer.datamodule.targets, module.initial_latents(module.jobs)
    direction = torch.zeros_like(latents)
    for step in range(module.num_steps):
        timestep = module.timestep(step)
        with torch.no_grad():
            predicted = backbone.velocity(latents, timestep, module.condition)
        if step < module.num_guided_steps:
            latents = latents.clone().requires_grad_()
            capture = backbone.capture(latents, timestep, module.condition, targets[step].request)
            total = sum(loss.weight * loss(capture, targets[step]) for loss in module.losses)
            (gradient,) = torch.autograd.grad(total, latents)
            direction = scale_per_job(gradient) + 0.5 * direction
            latents = latents.detach() - 0.02 * (1 + 0.75 + 0.5) * direction
        with torch.no_grad():
            negative = backbone.velocity(latents, timestep, module.negative_condition)
            latents = denoise(negative + 3.0 * (predicted - negative), latents, module.sigmas, step)
    torch.testing.assert_close(module.result.latents, latents, rtol=0, atol=tolerance)


def test_a_guided_step_takes_as_many_passes_as_a_plain_one(fit, passes):
    fit(guidance="fused", num_steps=3)
    assert passes == [("capture", 1)] * 2 + [("capture", 1), ("velocity", 1)] * 2 + [("velocity", 1)] * 2


def test_a_step_that_reuses_a_gradient_is_a_plain_one(fit, passes):
    cache = GradientCache(2, carry_over=True)
    fit([cache], guidance="fused", num_steps=3)
    assert (cache.num_computed, cache.num_reused) == (1, 1)
    assert passes == [("capture", 1)] * 2 + [("capture", 1), ("velocity", 1)] + [("velocity", 1)] * 4


def test_gradients_and_velocities_of_some_jobs_go_together(fit):
    """A job whose gradient is fresh uses its velocity; another, that reuses one, is predicted after it has moved."""

    class OneByOne(GradientCache):
        def may_reuse(self, job, rate):
            return job is self.jobs[1]

    both = fit([OneByOne(9, carry_over=True)], guidance="fused", clips=2, prompts=PROMPTS, optimizer=DESCENT)
    fresh = fit([], guidance="fused", clips=1, prompts=PROMPTS[:1], optimizer=DESCENT)
    torch.testing.assert_close(both.result.latents[:1], fresh.result.latents, atol=2e-3, rtol=1e-2)
    reusing = fit([GradientCache(9, carry_over=True)], guidance="fused", clips=2, prompts=PROMPTS, optimizer=DESCENT)
    torch.testing.assert_close(both.result.latents[1:], reusing.result.latents[1:], atol=2e-3, rtol=1e-2)


def test_a_budget_is_refused(fit):
    with pytest.raises(UserError, match="budget"):
        fit([GradientCache(3, budget=0.5)], guidance="fused")


@pytest.mark.parametrize("cache", [None, 2], ids=["fresh", "carried over"])
def test_a_run_resumed_anywhere_gives_the_same_latents(fit, tmp_path, cache):
    options = {"guidance": "fused", "num_steps": 4, "num_guided_steps": 3, "optimizer": DESCENT}
    caches = lambda: [] if cache is None else [GradientCache(cache, carry_over=True)]  # noqa: E731
    steps = ModelCheckpoint(tmp_path / "all", filename="{step}", save_top_k=-1, save_last=True, every_n_train_steps=1)
    epochs = ModelCheckpoint(tmp_path / "epochs", filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    whole = fit([steps, epochs, *caches()], baseline=True, **options)
    kept = sorted((tmp_path / "all").glob("*.ckpt")) + sorted((tmp_path / "epochs").glob("*.ckpt"))
    assert len(kept) >= 6
    for checkpoint in kept:
        resumed = fit(caches(), baseline=True, ckpt_path=checkpoint, **options)
        assert torch.equal(resumed.result.latents, whole.result.latents), checkpoint
        assert torch.equal(resumed.result.baseline, whole.result.baseline), checkpoint
