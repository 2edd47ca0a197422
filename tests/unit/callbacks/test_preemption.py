import os
import signal

import pytest
import torch
from lightning import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

from fastvmt_pl.callbacks import GradientCache, Preemption
from fastvmt_pl.preemption import Preempted, StopRequest, listening


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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize(
    "when",
    [{"inner_step": 1}, {"inner_step": 3}, {"inner_step": 6}, {"unguided_step": 0}, {"unguided_step": 4}],
    ids=str,
)
def test_a_run_that_is_asked_to_stop_goes_on_to_the_same_result(fit, checkpoint, tmp_path, number, when):
    before = signal.getsignal(number)
    whole = fit([GradientCache(3)], baseline=True)
    with pytest.raises(Preempted, match=f"stopped by {number.name}"):
        fit([GradientCache(3), checkpoint(), SignalAt(number, **when), Preemption()], baseline=True)
    assert signal.getsignal(number) is before
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["motion_transfer"]
    if "inner_step" in when:
        assert 4 * state["step"] + state["inner_step"] == when["inner_step"] + 1  # the step that was under way is done
    resumed = fit([GradientCache(3), checkpoint(), Preemption()], baseline=True, ckpt_path=tmp_path / "last.ckpt")
    assert torch.equal(resumed.result.latents, whole.result.latents)
    assert torch.equal(resumed.result.baseline, whole.result.baseline)
    assert [path.name for path in tmp_path.glob("*.ckpt")] == ["last.ckpt"]


def test_a_request_that_came_before_the_fit_stops_it_behind_the_first_step(fit, checkpoint, tmp_path):
    request = StopRequest()
    with listening(request):
        os.kill(os.getpid(), signal.SIGUSR1)
        with pytest.raises(Preempted, match="SIGUSR1"):
            fit([GradientCache(3), checkpoint(), Preemption(request)])
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["motion_transfer"]["inner_step"] == 1
