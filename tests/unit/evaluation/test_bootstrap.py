import torch

from fastvmt_pl.evaluation.bootstrap import interval_of_mean


def test_the_interval_is_that_of_a_normal_mean():
    values = torch.randn(400).tolist()
    mean, low, high = interval_of_mean(values)
    assert abs(mean - sum(values) / 400) < 1e-5
    assert low < mean < high
    assert abs((high - low) - 2 * 1.96 / 20) < 0.03
    assert interval_of_mean(values) == (mean, low, high)
