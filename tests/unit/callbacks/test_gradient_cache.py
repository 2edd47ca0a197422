import math

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
        (JobState(age=1, drift=None), False),  # nothing is known yet: measure
        (JobState(age=1, drift=0.1), True),
        (JobState(age=2, drift=0.1), True),
        (JobState(age=3, drift=0.1), False),  # a similarity of 0.74, less than 0.75
        (JobState(age=1, drift=0.3), False),
        (JobState(age=3, drift=0.0), True),
        (JobState(age=4, drift=0.0), False),  # the interval is the most
    ],
)
def test_a_gradient_is_reused_within_the_budget_and_the_interval(job, reused):
    assert GradientCache(interval=4, budget=0.25).may_reuse(job) == reused


def test_drift_is_the_rate_at_which_the_similarity_falls():
    job = JobState(age=3)
    GradientCache._measure(job, 0.5)
    assert math.exp(-3 * job.drift) == pytest.approx(0.5)
    job.age = 1
    GradientCache._measure(job, 0.5)
    assert job.drift == pytest.approx((math.log(2) / 3 + math.log(2)) / 2)
    GradientCache._measure(job, 1.0000001)  # rounding
    assert job.drift == pytest.approx((math.log(2) / 3 + math.log(2)) / 4)


def served(cache, cosine, num_steps=60):
    """Return how many inner steps each gradient serves, if fresh ones ``n`` steps apart are ``cosine(n)`` alike."""
    job, found = JobState(age=1), []
    for _ in range(num_steps):
        if cache.may_reuse(job):
            job.age += 1
        else:
            found.append(job.age)
            cache._measure(job, cosine(job.age))
            job.age = 1
    return found


@pytest.mark.parametrize("budget", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("cosine", [0.0, -0.8])
def test_gradients_with_nothing_in_common_are_not_reused(budget, cosine):
    assert set(served(GradientCache(6, budget), lambda age: cosine)) == {1}


def test_the_slower_a_gradient_drifts_the_longer_it_serves_and_no_longer_than_the_interval():
    cache = GradientCache(6, budget=0.3)
    assert [served(cache, lambda age, kept=kept: kept**age)[-1] for kept in (0.6, 0.8, 0.9, 0.99)] == [1, 2, 4, 6]


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
    plain, adaptive, tiny = GradientCache(interval=3), GradientCache(3, budget=0.9), GradientCache(3, budget=1e-6)
    for cache in (plain, adaptive, tiny):
        fit([cache], num_guided_steps=2, num_inner_steps=6)
    assert (plain.num_computed, plain.num_reused) == (4, 8)
    assert (tiny.num_computed, tiny.num_reused) == (12, 0)
    assert 4 < adaptive.num_computed < 12
    assert adaptive.num_computed + adaptive.num_reused == 12


def test_every_guided_step_measures_anew(fit):
    """A gradient that once kept its direction may not serve for good."""
    cache = GradientCache(6, budget=0.99)
    fit([cache], num_guided_steps=3, num_inner_steps=4)
    assert cache.longest == 3
    assert cache.num_computed >= 6  # two in each


def test_gradients_of_two_guided_steps_are_not_compared(fit):
    record = Record()
    fit([GradientCache(4), record], num_guided_steps=2)  # one gradient in each
    assert not any("gradients/cosine" in logged for logged in record.logged)


@pytest.mark.parametrize("carry_over", [False, True])
@pytest.mark.parametrize("budget", [None, 0.9])
def test_gradients_carried_over_are_not_compared_either(fit, carry_over, budget):
    record, cache = Record(), GradientCache(8, budget, carry_over=carry_over)
    fit([cache, record], num_guided_steps=2)
    assert cache.num_computed + cache.num_reused == 8
    if budget is None:
        assert cache.num_computed == (1 if carry_over else 2)
        assert not any("gradients/cosine" in logged for logged in record.logged)


@pytest.mark.parametrize("budget", [0.0, -1.0, 1.0])
def test_a_budget_is_a_share(budget):
    with pytest.raises(ValueError, match="more than 0 and less than 1"):
        GradientCache(budget=budget)


def test_a_budget_without_reuse_is_refused():
    with pytest.raises(ValueError, match="has no effect"):
        GradientCache(1, budget=0.5)
