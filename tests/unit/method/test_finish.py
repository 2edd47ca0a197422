"""The last steps of a sampling, by LoRAs of their own."""

from functools import partial

import pytest
import torch

from fastvmt_pl.backbones import DiffusersBackbone
from fastvmt_pl.callbacks import LastCheckpoint
from fastvmt_pl.errors import UserError
from fastvmt_pl.method.finish import Finish
from fastvmt_pl.method.motion_transfer import MotionTransfer
from fastvmt_pl.method.optimizers import NormalizedGradientDescent
from fastvmt_pl.method.sampling import denoise

DESCENT = partial(NormalizedGradientDescent, lr=0.02)


@pytest.fixture
def finish(tmp_path, write_lora):
    return Finish({str(write_lora(tmp_path / "few.safetensors", 0.2)): 0.5}, num_steps=2, shift=5.0)


@pytest.mark.parametrize("guidance", ["optimise", "fused"])
def test_guided_steps_are_plain_and_the_others_are_the_loras(fit, backbone, finish, guidance):
    options = {"guidance": guidance, "optimizer": DESCENT, "keep_trajectory": True, "num_steps": 5}
    module, plain = fit(finish=finish, **options), fit(**options)
    guided = module.num_guided_steps
    assert module.num_steps == guided + 2
    assert torch.equal(module.result.trajectory[:, : guided + 1], plain.result.trajectory[:, : guided + 1])
    expected = torch.tensor([float(plain.sigmas[guided]), 0.0, 0.0])
    level = expected[0] / (5 - 4 * expected[0]) / 2  # half of what is left, before the shift
    expected[1] = 5 * level / (1 + 4 * level)
    torch.testing.assert_close(module.sigmas[guided:], expected)
    fused = DiffusersBackbone("wan-tiny", loras=dict(finish.loras))
    latents = plain.result.trajectory[:, guided]
    for step in range(guided, guided + 2):
        with torch.no_grad():
            velocity = fused.velocity(latents, module.timestep(step), module.condition)
        latents = denoise(velocity, latents, module.sigmas, step)
    torch.testing.assert_close(module.result.latents, latents, rtol=1e-3, atol=1e-3)


def test_the_model_is_plain_again_for_the_next_run(fit, finish):
    before = fit(optimizer=DESCENT).result.latents
    fit(optimizer=DESCENT, finish=finish)
    assert torch.equal(fit(optimizer=DESCENT).result.latents, before)


def test_one_finish_is_kept_and_a_changed_file_is_read_again(fit, backbone, tmp_path, write_lora):
    found = []
    for value in (0.2, 0.3):
        path = write_lora(tmp_path / "few.safetensors", value)
        for weight in (0.5, 1.0):
            found.append(fit(optimizer=DESCENT, finish=Finish({str(path): weight}, num_steps=2)).result.latents)
            assert len(backbone.switched) == 1
    assert not any(torch.equal(one, other) for n, one in enumerate(found) for other in found[:n])


def test_the_baseline_has_the_same_finish(fit, finish):
    unguided = fit(num_guided_steps=0, num_steps=4, finish=finish)
    assert unguided.num_steps == 2
    module = fit(finish=finish, baseline=True)
    assert module.baseline_step == module.num_steps


@pytest.mark.parametrize("done", [1, 3, 5])
def test_a_run_killed_in_its_finish_goes_on(fit, finish, tmp_path, monkeypatch, done):
    whole = fit(finish=finish, baseline=True)
    denoised, calls = MotionTransfer.denoised, []

    def killed(self, *args):
        calls.append(args)
        if len(calls) > 2 + done:
            raise KeyboardInterrupt
        self.saved_at = 0  # a checkpoint is due after every step
        return denoised(self, *args)

    monkeypatch.setattr(MotionTransfer, "denoised", killed)
    with pytest.raises(SystemExit):
        fit([LastCheckpoint(tmp_path / "run")], finish=finish, baseline=True)
    monkeypatch.undo()
    last = tmp_path / "run" / "last.ckpt"
    resumed = fit([LastCheckpoint(tmp_path / "run")], finish=finish, baseline=True, ckpt_path=last)
    assert torch.equal(resumed.result.latents, whole.result.latents)
    assert torch.equal(resumed.result.baseline, whole.result.baseline)


def test_what_cannot_be_is_refused_before_weights_are_read(finish, tmp_path):
    backbone = DiffusersBackbone("wan-tiny")
    with pytest.raises(UserError, match="num_guided_steps"):
        MotionTransfer(backbone, num_steps=4, num_guided_steps=4, finish=finish)
    with pytest.raises(UserError, match="missing"):
        MotionTransfer(backbone, finish=Finish({str(tmp_path / "missing.safetensors"): 1.0}))
    assert not backbone.experts


@pytest.mark.parametrize("change", [{"loras": {}}, {"num_steps": 0}, {"guidance_scale": 0.5}, {"shift": 0.0}], ids=str)
def test_numbers_out_of_range_are_refused(change):
    with pytest.raises(UserError, match=next(iter(change)).removesuffix("s").replace("lora", "LoRA")):
        Finish(**({"loras": {"few.safetensors": 1.0}} | change))
