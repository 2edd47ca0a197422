import pytest

from fastvmt_pl.callbacks import Costs, GradientCache


def test_a_batch_of_two_takes_more_memory_than_one(fit):
    alone, both = Costs(profile_cpu=True), Costs(profile_cpu=True)
    fit([GradientCache(3), alone], num_guided_steps=1)
    fit([GradientCache(3), both], num_guided_steps=1, clips=2, prompts=("a red cross", "a green circle"))
    assert both.peak_bytes > 1.5 * alone.peak_bytes > 1_000_000
    assert min(alone.seconds, both.seconds) > 0


def test_without_guided_steps_there_is_no_gradient_to_measure(fit):
    costs = Costs(profile_cpu=True)
    fit([costs], num_guided_steps=0)
    assert costs.peak_bytes is None
    assert costs.seconds > 0


def test_it_forgets_an_earlier_fit(fit):
    costs = Costs(profile_cpu=True)
    fit([costs], num_guided_steps=1)
    first = costs.peak_bytes
    fit([costs], num_guided_steps=1)
    assert costs.peak_bytes == pytest.approx(first, rel=0.05)


def test_memory_on_a_cpu_is_measured_on_request_only(fit):
    costs = Costs()
    fit([costs], num_guided_steps=1)
    assert costs.peak_bytes is None
    assert costs.seconds > 0
