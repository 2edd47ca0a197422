import pytest
import torch

from fastvmt_pl.objectives import MotionFlowLoss, MotionSettings, MotionTarget, WindowLoss

GRID = (4, 6)


def tokens(jobs=2):
    return [torch.randn(jobs, 4, 24, 2, 5, requires_grad=True) for _ in range(2)]


@pytest.fixture
def target():
    query, key = (x.detach() for x in tokens())
    return MotionTarget.extract(query, key, GRID, MotionSettings(block=0, window=3))


@pytest.mark.parametrize("metric", [MotionFlowLoss(), WindowLoss(), WindowLoss(window=1)])
def test_calling_gives_the_batchs_loss_with_its_gradient(metric, target):
    query, key = tokens()
    loss = metric(query, key, target)
    torch.testing.assert_close(loss, metric.per_job(query, key, target).sum())
    loss.backward()
    assert key.grad.abs().sum() > 0


def test_computing_averages_over_calls_until_reset(target):
    metric = MotionFlowLoss()
    values = [metric(*tokens(), target).detach() for _ in range(3)]
    torch.testing.assert_close(metric.compute().detach(), torch.stack(values).mean())
    metric.reset()
    assert metric.count == 0


def test_a_sample_that_moves_as_the_reference_loses_nothing():
    query, key = tokens()
    target = MotionTarget.extract(query.detach(), key.detach(), GRID, MotionSettings(block=0, window=3))
    assert MotionFlowLoss()(query, key, target) == 0


def test_loss_of_a_batch_is_the_sum_of_its_jobs(target):
    query, key = tokens()
    alone = [
        MotionFlowLoss()(
            query[i : i + 1],
            key[i : i + 1],
            MotionTarget(target.flow[i : i + 1], target.centres[i : i + 1], GRID, 4, target.settings),
        )
        for i in range(2)
    ]
    torch.testing.assert_close(MotionFlowLoss()(query, key, target), sum(alone))


def test_one_target_serves_many_jobs():
    query, key = tokens(1)
    target = MotionTarget.extract(query.detach(), key.detach(), GRID, MotionSettings(block=0, window=3))
    many = MotionFlowLoss()(query.expand(3, -1, -1, -1, -1) + 1, key.expand(3, -1, -1, -1, -1), target)
    torch.testing.assert_close(many, 3 * MotionFlowLoss()(query + 1, key, target))


def test_windows_can_follow_the_sample(target):
    query, key = tokens()
    moved = target.with_centres_of(query, key)
    assert torch.equal(moved.flow, target.flow)
    assert not torch.equal(moved.centres, target.centres)


def test_a_negative_weight_is_refused():
    with pytest.raises(ValueError, match="0 or more"):
        MotionFlowLoss(weight=-1.0)


@pytest.mark.parametrize("window", [0, -3])
def test_an_impossible_window_is_refused(window):
    with pytest.raises(ValueError, match="at least 1"):
        WindowLoss(window=window)


@pytest.mark.parametrize(("num_frames", "span"), [(2, 4), (9, 2)])
def test_too_few_frames_for_the_window_loss_are_refused(num_frames, span):
    with pytest.raises(ValueError, match="a span of 3 or more"):
        WindowLoss().check_target(num_frames, MotionSettings(span=span))
    MotionFlowLoss().check_target(num_frames, MotionSettings(span=span))
    WindowLoss().check_target(3, MotionSettings(span=None))


@pytest.mark.parametrize(
    "setting", [{"block": -1}, {"window": 0}, {"tile": (0, 4)}, {"span": 1}, {"temperature": 0.0}, {"window": -3}]
)
def test_impossible_motion_settings_are_refused(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        MotionSettings(**setting)
