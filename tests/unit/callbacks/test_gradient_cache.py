import pytest
import torch
from lightning import Callback
from torch.nn.functional import cosine_similarity

from fastvmt_pl.callbacks import GradientCache


class Record(Callback):
    """Keeps what is logged, and the gradients, after each inner step."""

    def __init__(self):
        self.logged, self.gradients = [], []

    def on_train_batch_end(self, trainer, pl_module, *args):
        self.logged.append({name: float(value) for name, value in trainer.callback_metrics.items()})
        self.gradients.append(pl_module.latents.grad.clone())


def test_counts_and_the_cosine_between_fresh_gradients_are_logged(fit):
    record = Record()
    fit([GradientCache(2), record], num_guided_steps=1)
    assert [logged["gradients/computed"] for logged in record.logged] == [1, 1, 2, 2]
    assert [logged["gradients/reused"] for logged in record.logged] == [0, 1, 1, 2]
    first, reused, second, _ = record.gradients
    assert torch.equal(first, reused)
    cosine = cosine_similarity(first.flatten(1), second.flatten(1)).mean()
    assert "gradients/cosine" not in record.logged[1]
    assert record.logged[2]["gradients/cosine"] == pytest.approx(float(cosine), abs=1e-5)
