import math

import pytest
import torch
from lightning import Callback
from torch.nn.functional import cosine_similarity

from fastvmt_pl.callbacks import GradientCache
from fastvmt_pl.callbacks.gradient_cache import JobState
from fastvmt_pl.errors import UserError


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
    ("job", "rate", "reused"),
    [
        (JobState(age=1, distance=1.0, drift=None), 1.0, False),  # nothing is known yet: measure
        (JobState(age=1, distance=1.0, drift=0.1), 1.0, True),
        (JobState(age=2, distance=2.0, drift=0.1), 1.0, True),
        (JobState(age=3, distance=3.0, drift=0.1), 1.0, False),  # a similarity of 0.74, less than 0.75
        (JobState(age=3, distance=2.0, drift=0.1), 1.0, True),  # after a shorter distance
        (JobState(age=3, distance=3.0, drift=0.1), 0.5, True),  # in a shorter step
        (JobState(age=1, distance=1.0, drift=0.3), 1.0, False),
        (JobState(age=3, distance=3.0, drift=0.0), 1.0, True),
        (JobState(age=4, distance=4.0, drift=0.0), 1.0, False),  # the interval is the most
    ],
)
def test_a_gradient_is_reused_within_the_budget_and_the_interval(job, rate, reused):
    assert GradientCache(interval=4, budget=0.25).may_reuse(job, rate) == reused


def test_drift_is_the_rate_at_which_the_similarity_falls_with_distance():
    job = JobState(distance=3.0)
    job.compare(0.5)
    assert math.exp(-3 * job.drift) == pytest.approx(0.5)
    job.distance = 1.0
    job.compare(0.5)
    assert job.drift == pytest.approx((math.log(2) / 3 + math.log(2)) / 2)
    job.compare(1.0000001)  # rounding
    assert job.drift == pytest.approx((math.log(2) / 3 + math.log(2)) / 4)


def served(cache, cosine, num_steps=60):
    """Return how many inner steps each gradient serves, if fresh ones ``n`` steps apart are ``cosine(n)`` alike."""
    job, found = JobState(age=1, distance=1.0), []
    for _ in range(num_steps):
        if not cache.may_reuse(job, 1.0):
            found.append(job.age)
            job.compare(cosine(job.age))
            job.age, job.distance = 0, 0.0
        job.age += 1
        job.distance += 1.0
    return found


@pytest.mark.parametrize("budget", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("cosine", [0.0, -0.8])
def test_gradients_with_nothing_in_common_are_not_reused(budget, cosine):
    assert set(served(GradientCache(6, budget), lambda age: cosine)) == {1}


def test_a_slower_drift_means_longer_reuse_up_to_the_interval():
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

    def may_reuse(self, job, rate):
        return self.decisions.pop(0)


def test_jobs_reuse_their_gradients_while_others_compute(fit, backbone, monkeypatch):
    sizes = []
    capture = backbone.capture
    monkeypatch.setattr(backbone, "capture", lambda *a, **k: sizes.append(len(a[0])) or capture(*a, **k))
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


def test_a_jobs_gradients_do_not_depend_on_the_others(fit):
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


def test_the_distance_is_the_sum_of_the_learning_rates(fit):
    distances = []

    class Record(GradientCache):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            super().on_before_optimizer_step(trainer, pl_module, optimizer)
            distances.append(self.jobs[0].distance)

    fit([Record(3)], num_guided_steps=2, num_inner_steps=5, final_rate=0.2)
    assert distances == pytest.approx(2 * [1.0, 1.8, 2.4, 0.4, 0.6])


def test_every_guided_step_measures_the_drift_again(fit):
    """A gradient that once kept its direction may not serve for good."""
    computed = []

    class Record(GradientCache):
        def on_before_optimizer_step(self, trainer, pl_module, optimizer):
            super().on_before_optimizer_step(trainer, pl_module, optimizer)
            computed.append(self.num_computed)
            self.jobs[0].drift = self.jobs[0].drift and 0.0  # as if the gradient kept its direction

    fit([Record(8, budget=0.5)], num_guided_steps=3, num_inner_steps=4)
    assert computed == [1, 2, 2, 2, 3, 4, 4, 4, 5, 6, 6, 6]


def test_gradients_of_two_guided_steps_are_not_compared(fit):
    record = Record()
    fit([GradientCache(4), record], num_guided_steps=2)  # one gradient in each
    assert not any("gradients/cosine" in logged for logged in record.logged)


def test_gradients_carried_over_are_compared_but_say_nothing_of_the_drift(fit):
    record, cache = Record(), GradientCache(3, carry_over=True)
    fit([cache, record], num_guided_steps=2, num_inner_steps=2)  # the second gradient is that of the last inner step
    assert cache.num_computed == 2
    assert ["gradients/cosine" in logged for logged in record.logged] == [False, False, False, True]
    assert not any("gradients/drift" in logged for logged in record.logged)
    fit([cache, record], num_guided_steps=2)  # the second is that of inner step 3, the third of the second guided step
    cosines = [logged.get("gradients/cosine") for logged in record.logged[4:]]
    assert cache.num_computed == 3
    assert cosines[:3] == [None] * 3
    assert len(set(cosines[3:])) == 2  # logged values stay until the next: those of the second and the third gradient


@pytest.mark.parametrize("budget", [0.0, -1.0, 1.0])
def test_a_budget_is_a_share(budget):
    with pytest.raises(UserError, match="budget"):
        GradientCache(budget=budget)


def test_a_budget_without_reuse_is_refused():
    with pytest.raises(UserError, match="interval"):
        GradientCache(1, budget=0.5)
