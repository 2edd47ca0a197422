import os
import signal

import pytest
import torch
from lightning import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

from fastvmt_pl.callbacks import GradientCache, Preemption
from fastvmt_pl.processes.stop_request import Preempted, StopRequest, listening


class SignalAt(Callback):
    """Sends this process a signal at an inner step, or at an unguided step."""

    def __init__(self, number, inner_step=None, unguided_step=None):
        self.number, self.inner_step, self.unguided_step = number, inner_step, unguided_step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.inner_step:
            os.kill(os.getpid(), self.number)

    def on_fit_end(self, trainer, pl_module):
        steps = iter(range(100))
        sent = lambda: next(steps) == self.unguided_step and os.kill(os.getpid(), self.number)  # noqa: E731
        pl_module.on_denoised.insert(0, sent)


@pytest.fixture
def checkpoint(tmp_path):
    return lambda: ModelCheckpoint(tmp_path, save_top_k=0, save_last=True, save_on_train_epoch_end=True)


def test_a_stopped_run_resumes_to_the_same_result(fit, checkpoint, tmp_path):
    whole, path = fit([GradientCache(3)], baseline=True), tmp_path / "last.ckpt"
    for number, when in [
        (signal.SIGTERM, {"inner_step": 1}),
        (signal.SIGUSR1, {"inner_step": 3}),
        (signal.SIGTERM, {"unguided_step": 0}),
        (signal.SIGUSR1, {"unguided_step": 4}),
    ]:
        before = signal.getsignal(number)
        with pytest.raises(Preempted, match=number.name):
            fit([GradientCache(3), checkpoint(), SignalAt(number, **when), Preemption()], baseline=True)
        assert signal.getsignal(number) is before
        state = torch.load(path, weights_only=True)["motion_transfer"]
        if "inner_step" in when:
            assert 4 * state["step"] + state["inner_step"] == when["inner_step"] + 1  # that was under way, and is done
        else:
            assert state["step"] - 2 + state["baseline_step"] == when["unguided_step"] + 1
        resumed = fit([GradientCache(3), checkpoint(), Preemption()], baseline=True, ckpt_path=path)
        assert torch.equal(resumed.result.latents, whole.result.latents), when
        assert torch.equal(resumed.result.baseline, whole.result.baseline), when
        assert [file.name for file in tmp_path.glob("*.ckpt")] == ["last.ckpt"]
        path.unlink()


def test_a_request_before_the_fit_stops_it_after_the_first_step(fit, checkpoint, tmp_path):
    request = StopRequest()
    with listening(request):
        os.kill(os.getpid(), signal.SIGUSR1)
        with pytest.raises(Preempted, match="SIGUSR1"):
            fit([GradientCache(3), checkpoint(), Preemption(request)])
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["motion_transfer"]["inner_step"] == 1
