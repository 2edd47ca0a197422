import time
from functools import partial

import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from fastvmt_pl.backbones import DiffusersBackbone
from fastvmt_pl.callbacks import GradientCache, LastCheckpoint
from fastvmt_pl.method.motion_transfer import MotionTransfer, UnfinishedError
from fastvmt_pl.method.optimizers import NormalizedGradientDescent
from fastvmt_pl.method.video_sampler import NonFiniteError
from fastvmt_pl.objectives import AttentionFlow, MotionFlowLoss, WindowLoss

PROMPTS = ("a red cross on a navy background", "a blue circle on a gray background")
ADAMW = partial(torch.optim.AdamW, lr=0.01)


def test_it_makes_videos_and_a_baseline_from_the_same_start(fit):
    result = fit(baseline=True).result
    assert result.frames.shape == result.baseline.shape == (1, 5, 16, 16, 3)
    assert result.frames.dtype == torch.uint8
    assert not torch.equal(result.frames, result.baseline)


def test_the_baseline_is_what_no_guidance_gives(fit):
    assert torch.equal(fit(baseline=True).result.baseline, fit(num_guided_steps=0).result.frames)


def test_weights_of_zero_guide_nothing(fit):
    nothing = [MotionFlowLoss(weight=0.0), WindowLoss(weight=0.0)]
    guided = fit(losses=nothing, optimizer=partial(NormalizedGradientDescent, lr=0.05))
    assert torch.equal(guided.result.latents, fit(num_guided_steps=0).result.latents)


@pytest.mark.gpu
def test_a_gpu_makes_what_a_cpu_makes(fit):
    optimizer = partial(NormalizedGradientDescent, lr=0.05)
    gpu, cpu = (
        fit([GradientCache()], baseline=True, optimizer=optimizer, trainer={"accelerator": name, "devices": 1}).result
        for name in ("gpu", "cpu")
    )
    assert (gpu.latents - cpu.latents).norm() < 0.02 * cpu.latents.norm()
    assert (gpu.frames.float() - cpu.frames.float()).abs().mean() < 1
    assert (gpu.baseline.float() - cpu.baseline.float()).abs().mean() < 1


def test_the_optimiser_lowers_the_loss(fit):
    losses = []

    class Record(GradientCache):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            losses.append(float(trainer.callback_metrics["loss/motion_flow"]))

    fit([Record(interval=1)], num_guided_steps=1, num_inner_steps=8, losses=[MotionFlowLoss()], optimizer=ADAMW)
    assert losses[-1] < losses[0]
    assert len(set(losses)) == 8  # the second inner step sees the first one's update, and so on


@pytest.mark.parametrize("where", ["reference", "sample"])
def test_an_interval_of_one_is_no_cache(fit, where):
    motion = AttentionFlow(block=2, window=5, centres=where)
    assert torch.equal(
        fit([GradientCache(interval=1)], motion=motion).result.latents, fit(motion=motion).result.latents
    )


def test_reuse_computes_every_third_gradient(fit):
    cache = GradientCache(interval=3)
    module = fit([cache], num_inner_steps=10)
    assert (cache.num_computed, cache.num_reused) == (8, 12)
    assert not torch.equal(module.result.latents, fit(num_inner_steps=10).result.latents)


def test_a_reuse_step_has_exactly_the_cached_gradient_and_runs_no_backbone(fit, backbone, monkeypatch):
    calls = []
    capture = backbone.capture
    monkeypatch.setattr(backbone, "capture", lambda *a, **k: calls.append(len(a[0])) or capture(*a, **k))
    gradients = []

    class Record(GradientCache):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            super().on_before_optimizer_step(trainer, pl_module, optimizer)
            gradients.append(pl_module.latents.grad.clone())

    fit([Record(interval=4)], num_guided_steps=1)
    assert len(calls) == 2  # one extraction, one gradient
    assert all(torch.equal(gradient, gradients[0]) for gradient in gradients)


def test_carrying_over_computes_fewer(fit):
    cache = GradientCache(interval=8, carry_over=True)
    fit([cache])
    assert (cache.num_computed, cache.num_reused) == (1, 7)


@pytest.mark.parametrize("optimizer", [ADAMW, partial(NormalizedGradientDescent, lr=0.02)])
def test_a_job_in_a_batch_is_the_same_job_alone(fit, optimizer):
    clipping = {"gradient_clip_val": 0.5}
    together = fit([GradientCache(3)], clips=2, prompts=PROMPTS, optimizer=optimizer, trainer=clipping)
    alone = fit([GradientCache(3)], clips=1, prompts=PROMPTS[:1], optimizer=optimizer, trainer=clipping)
    torch.testing.assert_close(together.result.latents[:1], alone.result.latents, atol=2e-3, rtol=1e-2)


def test_a_jobs_gradient_does_not_depend_on_the_others(fit):
    class Record(GradientCache):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            gradients.append(pl_module.latents.grad[0].clone())

    gradients = []
    for number in (2, 1):
        fit([Record(1)], clips=number, prompts=PROMPTS[:number], num_guided_steps=1, num_inner_steps=1)
    together, alone = gradients
    assert (together - alone).norm() < 1e-4 * alone.norm()


def test_clipping_is_per_job(fit):
    norms = []

    class Record(GradientCache):
        def on_train_batch_end(self, trainer, pl_module, *args):
            norms.append(pl_module.latents.grad.flatten(1).norm(dim=1))

    fit([Record(1)], clips=2, prompts=PROMPTS, num_guided_steps=1, trainer={"gradient_clip_val": 0.01})
    torch.testing.assert_close(torch.stack(norms), torch.full((4, 2), 0.01), rtol=1e-2, atol=0.0)


@pytest.mark.parametrize(
    ("budget", "options"),
    [
        pytest.param(None, {"optimizer": ADAMW}, marks=pytest.mark.slow),
        (
            0.5,
            {"optimizer": partial(NormalizedGradientDescent, lr=0.02, momentum=0.5), "clips": 2, "prompts": PROMPTS},
        ),
    ],
    ids=["one job, AdamW", "two jobs, gradient descent with momentum, adaptive reuse"],
)
def test_a_run_resumed_anywhere_gives_the_same_latents(fit, tmp_path, budget, options):
    """After any inner step, the last of an epoch included, after an epoch's end, and after the last unguided step."""
    options = options | {"num_steps": 3, "num_inner_steps": 3}
    everything = ModelCheckpoint(
        tmp_path / "all", filename="{step}", save_top_k=-1, save_last=True, every_n_train_steps=1
    )
    epochs = ModelCheckpoint(tmp_path / "epochs", filename="{epoch}", save_top_k=-1, save_on_train_epoch_end=True)
    whole = fit([everything, epochs, GradientCache(2, budget)], baseline=True, **options)
    kept = sorted((tmp_path / "all").glob("step=*.ckpt")) + sorted((tmp_path / "epochs").glob("*.ckpt"))
    assert len(kept) == 6 + 2
    for checkpoint in [*kept, tmp_path / "all" / "last.ckpt"]:
        resumed = fit([GradientCache(2, budget)], baseline=True, ckpt_path=checkpoint, **options)
        assert torch.equal(resumed.result.latents, whole.result.latents), checkpoint
        assert torch.equal(resumed.result.baseline, whole.result.baseline), checkpoint


@pytest.fixture
def clock(monkeypatch):
    """A clock on which each denoising step takes 25 seconds, and nothing else takes any time."""
    now, denoised = [1000.0], MotionTransfer.denoised

    def slow(self, latents, step, *args):
        now[0] += 25
        return denoised(self, latents, step, *args)

    monkeypatch.setattr(MotionTransfer, "denoised", slow)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])


@pytest.mark.parametrize("stop_after", [1, 4, 7])
def test_a_run_killed_in_the_unguided_tail_goes_on(fit, tmp_path, monkeypatch, clock, stop_after):
    whole = fit([GradientCache(3)], num_steps=6, baseline=True)
    denoised, calls = MotionTransfer.denoised, []

    def killed(self, *args):
        calls.append(args)
        if len(calls) > 2 + stop_after:
            raise KeyboardInterrupt
        return denoised(self, *args)

    monkeypatch.setattr(MotionTransfer, "denoised", killed)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit([GradientCache(3), LastCheckpoint(tmp_path / "run")], num_steps=6, baseline=True)
    calls.clear()
    monkeypatch.setattr(MotionTransfer, "denoised", lambda *args: calls.append(args) or denoised(*args))
    resumed = fit([GradientCache(3)], num_steps=6, baseline=True, ckpt_path=tmp_path / "run" / "last.ckpt")
    assert torch.equal(resumed.result.latents, whole.result.latents)
    assert torch.equal(resumed.result.baseline, whole.result.baseline)
    lost = len(calls) - (10 - stop_after)
    assert lost == {1: 1, 4: 0, 7: 0}[stop_after]


def test_checkpoints_of_unguided_steps_are_bounded_in_time(fit, tmp_path, clock):
    positions = []

    class Record(Callback):
        def on_save_checkpoint(self, trainer, pl_module, checkpoint):
            positions.append((pl_module.step, pl_module.baseline_step))

    fit([LastCheckpoint(tmp_path), Record()], num_guided_steps=1, num_steps=6, baseline=True)
    assert positions == [(1, 0), (4, 0), (6, 0), (6, 3), (6, 6)]


@pytest.mark.parametrize("done", [1, 2])
def test_a_run_killed_in_its_guided_steps_goes_on_after_the_last_one_that_was_done(fit, tmp_path, monkeypatch, done):
    whole = fit(num_guided_steps=3)
    capture, calls = DiffusersBackbone.capture, []

    def killed(self, *args, **options):
        calls.append(args)
        if len(calls) > 4 * done + 2 + 1:  # inner steps, and the reading of the clip
            raise KeyboardInterrupt
        return capture(self, *args, **options)

    monkeypatch.setattr(DiffusersBackbone, "capture", killed)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        fit([LastCheckpoint(tmp_path / "run")], num_guided_steps=3)
    monkeypatch.setattr(DiffusersBackbone, "capture", capture)
    kept = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    assert kept["motion_transfer"]["step"] == done
    resumed = fit(num_guided_steps=3, ckpt_path=tmp_path / "run" / "last.ckpt")
    assert torch.equal(resumed.result.latents, whole.result.latents)


def test_a_checkpoint_holds_no_backbone_and_no_pickle(fit, tmp_path):
    fit([ModelCheckpoint(tmp_path, save_top_k=0, save_last=True, every_n_train_steps=1)])
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert set(checkpoint["state_dict"]) == {"latents"}
    assert (tmp_path / "last.ckpt").stat().st_size < 1_000_000


def test_a_loss_that_is_not_finite_ends_the_run(fit):
    with pytest.raises(NonFiniteError, match="guided step 1"):
        fit(optimizer=partial(torch.optim.SGD, lr=1e38))


def test_a_gradient_that_is_not_finite_ends_the_run_even_where_clipping_would_hide_it(fit, backbone, monkeypatch):
    capture = backbone.capture

    def overflow(latents, *args, **options):
        if latents.requires_grad:
            latents.register_hook(lambda gradient: gradient / 0)
        return capture(latents, *args, **options)

    monkeypatch.setattr(backbone, "capture", overflow)
    with pytest.raises(NonFiniteError, match="guided step 1, inner step 1"):
        fit(trainer={"gradient_clip_val": 0.5, "gradient_clip_algorithm": "value"})


def test_the_learning_rate_falls_linearly_in_every_guided_step(fit):
    rates = []

    class Record(GradientCache):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            rates.append(optimizer.param_groups[0]["lr"])

    fit([Record(1)], optimizer=partial(torch.optim.AdamW, lr=0.003))
    expected = torch.linspace(0.003, 0.002, 4).tolist() * 2
    assert rates == pytest.approx(expected)


def test_a_module_and_a_cache_can_be_used_again(fit):
    cache = GradientCache(3, carry_over=True)
    module = fit([cache], baseline=True)
    first = module.result
    second = fit([cache], again=module).result
    assert torch.equal(first.latents, second.latents)
    assert torch.equal(first.baseline, second.baseline)
    other = fit([cache], again=module, seed=5).result
    assert torch.equal(other.latents, fit([GradientCache(3, carry_over=True)], seed=5).result.latents)
    assert cache.num_computed + cache.num_reused == 8


def test_a_result_is_never_made_of_some_of_the_guided_steps(fit):
    with pytest.raises(UnfinishedError, match=r"guided step 2 of 2.*limit_train_batches"):
        fit(trainer={"limit_train_batches": 2})


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"devices": 2, "strategy": "ddp_notebook"}, "2 processes; set devices to 1"),
        ({"precision": "bf16-true"}, "precision is bf16-true"),
        ({"precision": "bf16-mixed"}, "precision is bf16-mixed"),
        ({"accumulate_grad_batches": 2}, "accumulate_grad_batches is 2"),
    ],
)
def test_trainers_that_would_break_the_optimisation_are_refused(backbone, setting, message):
    trainer = Trainer(accelerator="cpu", max_epochs=10, logger=False, **setting)
    with pytest.raises(ValueError, match=message):
        MotionTransfer(backbone).check_trainer(trainer)


def test_latents_that_are_not_finite_end_the_run(fit, backbone, monkeypatch):
    velocity = backbone.velocity
    monkeypatch.setattr(backbone, "velocity", lambda *args, **options: velocity(*args, **options) / 0)
    with pytest.raises(NonFiniteError, match="denoising step 1"):
        fit(num_guided_steps=0)


def test_epochs_must_be_the_guided_steps(fit):
    with pytest.raises(ValueError, match="max_epochs is 5; set it to num_guided_steps, which is 2"):
        fit(trainer={"max_epochs": 5})


@pytest.mark.parametrize(
    "setting",
    [
        {"num_steps": 0},
        {"num_guided_steps": -1},
        {"num_guided_steps": 51},
        {"num_inner_steps": 0},
        {"strength": 0.0},
        {"strength": 1.1},
        {"guidance_scale": 0.5},
        {"shift": 0.0},
        {"final_rate": -1.0},
    ],
)
def test_impossible_settings_are_refused(backbone, setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        MotionTransfer(backbone, **setting)
