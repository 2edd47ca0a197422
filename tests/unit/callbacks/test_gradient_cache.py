import pytest
import torch
from lightning import Callback
from torch.nn.functional import cosine_similarity

from fastvmt_pl.callbacks import GradientCache
from fastvmt_pl.callbacks.gradient_cache import JobState


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


# Adaptive reuse


@pytest.mark.parametrize(
    ("job", "reused"),
    [
        (JobState(age=1, turning=None), False),  # nothing is known yet: measure
        (JobState(age=1, turning=10.0), True),
        (JobState(age=2, turning=10.0), True),
        (JobState(age=3, turning=10.0), False),  # 30 degrees may exceed 25
        (JobState(age=1, turning=40.0), False),
        (JobState(age=3, turning=0.0), True),
        (JobState(age=4, turning=0.0), False),  # the interval is the most
    ],
)
def test_a_gradient_is_reused_within_the_budget_and_the_interval(job, reused):
    assert GradientCache(interval=4, budget=25.0).may_reuse(job) == reused


def test_turning_is_the_angle_by_the_steps_in_between():
    job = JobState(age=3)
    GradientCache._measure(job, 0.0)
    assert job.turning == pytest.approx(30.0)
    job.age = 1
    GradientCache._measure(job, 0.5)
    assert job.turning == pytest.approx(45.0)
    GradientCache._measure(job, 1.0000001)  # rounding
    assert job.turning == pytest.approx(22.5)


class Decide(GradientCache):
    """Reuses as a table says, job by job; the rest is the callback's own."""

    def __init__(self, table):
        super().__init__(interval=100)
        self.table, self.asked = table, 0

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.decisions = list(self.table[pl_module.inner_step])
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)

    def may_reuse(self, job):
        return self.decisions.pop(0)


def test_jobs_that_reuse_keep_theirs_while_others_compute(fit, backbone, monkeypatch):
    sizes = []
    query_key = backbone.query_key
    monkeypatch.setattr(backbone, "query_key", lambda *a, **k: sizes.append(len(a[0])) or query_key(*a, **k))
    record, cache = Record(), Decide([(), (True, False), (False, True), (True, True)])
    prompts = ("a red cross on a navy background", "a green circle on a gray background")
    fit([cache, record], clips=2, prompts=prompts, num_guided_steps=1)
    first, second, third, fourth = record.gradients
    assert torch.equal(first[0], second[0])
    assert not torch.equal(first[1], second[1])
    assert torch.equal(second[1], third[1])
    assert not torch.equal(second[0], third[0])
    assert torch.equal(third, fourth)
    assert sizes[-3:] == [2, 1, 1]  # and none in the last step
    assert [(job.num_computed, job.num_reused) for job in cache.jobs] == [(2, 2), (2, 2)]
    assert record.logged[-1]["gradients/computed"] == 2


def test_what_one_job_computes_does_not_depend_on_the_others(fit):
    def gradients(number, table):
        record = Record()
        prompts = ("a red cross on a navy background", "a green circle on a gray background")[:number]
        fit([Decide(table), record], clips=number, prompts=prompts, num_guided_steps=1)
        return [gradient[0] for gradient in record.gradients]

    mixed = gradients(2, [(), (False, True), (True, False), (False, True)])
    alone = gradients(1, [(), (False,), (True,), (False,)])
    for ours, theirs in zip(mixed, alone, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-3 * float(theirs.abs().max()), rtol=1e-2)


def test_a_budget_reuses_less_than_its_interval_and_a_tiny_one_never(fit):
    plain, adaptive, tiny = GradientCache(interval=3), GradientCache(3, budget=120.0), GradientCache(3, budget=1e-6)
    for cache in (plain, adaptive, tiny):
        fit([cache], num_guided_steps=2, num_inner_steps=6)
    assert (plain.num_computed, plain.num_reused) == (4, 8)
    assert (tiny.num_computed, tiny.num_reused) == (12, 0)
    assert 4 < adaptive.num_computed < 12
    assert adaptive.num_computed + adaptive.num_reused == 12


def test_gradients_of_two_guided_steps_are_not_compared(fit):
    record = Record()
    fit([GradientCache(4), record], num_guided_steps=2)  # one gradient in each
    assert not any("gradients/cosine" in logged for logged in record.logged)


@pytest.mark.parametrize("budget", [0.0, -1.0, 180.0])
def test_a_budget_is_an_angle(budget):
    with pytest.raises(ValueError, match="less than 180 degrees"):
        GradientCache(budget=budget)
