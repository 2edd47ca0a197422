from dataclasses import replace

import pytest
import torch

from fastvmt_pl.backbones.request import Capture, Request
from fastvmt_pl.errors import UserError
from fastvmt_pl.objectives import AttentionFlow, MotionFlowLoss, MotionTarget, WindowLoss

GRID = (4, 6)
FLOW = AttentionFlow(block=0, window=3)


def capture(jobs=2, block=0):
    """What a pass with random queries and keys brings, with gradients."""
    query, key = (torch.randn(jobs, 4, 24, 2, 5, requires_grad=True) for _ in range(2))
    latents = torch.zeros(jobs, 1, 4, 8, 12)
    return Capture(latents, torch.ones(jobs), GRID, {block: query}, {block: key})


def rows(found, jobs):
    fewer = replace(found, latents=found.latents[jobs], sigma=found.sigma[jobs], query={}, key={})
    query, key = ({block: tensor[jobs] for block, tensor in each.items()} for each in (found.query, found.key))
    return replace(fewer, query=query, key=key)


@pytest.fixture
def target():
    return MotionTarget.extract(capture().mapped(torch.Tensor.detach), [FLOW])


@pytest.mark.parametrize("loss", [MotionFlowLoss(), WindowLoss(), WindowLoss(window=1)])
def test_calling_gives_the_loss_of_the_batch_with_its_gradient(loss, target):
    sample = capture()
    value = loss(sample, target)
    torch.testing.assert_close(value, loss.per_job(sample, target).sum())
    value.backward()
    assert sample.key[0].grad.abs().sum() > 0


def test_computing_averages_over_calls_until_reset(target):
    loss = MotionFlowLoss()
    values = [loss(capture(), target).detach() for _ in range(3)]
    torch.testing.assert_close(loss.compute().detach(), torch.stack(values).mean())
    loss.reset()
    assert loss.count == 0


def test_a_sample_that_moves_as_the_reference_has_no_loss():
    sample = capture()
    assert MotionFlowLoss()(sample, MotionTarget.extract(sample.mapped(torch.Tensor.detach), [FLOW])) == 0


@pytest.mark.parametrize("loss", [MotionFlowLoss(), WindowLoss()])
def test_the_loss_of_a_batch_is_the_sum_of_its_jobs(loss, target):
    sample = capture()
    alone = [loss(rows(sample, [job]), target.of_jobs([job])) for job in range(2)]
    torch.testing.assert_close(loss(sample, target), sum(alone))


@pytest.mark.parametrize("loss", [MotionFlowLoss(), WindowLoss()])
def test_one_target_serves_many_jobs(loss):
    one = capture(1)
    target = MotionTarget.extract(one.mapped(torch.Tensor.detach), [FLOW])
    moved = one.mapped(lambda tensor: tensor + torch.randn_like(tensor))
    torch.testing.assert_close(loss(rows(moved, [0, 0, 0]), target), 3 * loss(moved, target))


@pytest.mark.parametrize("loss", [MotionFlowLoss(), WindowLoss()])
class TestRegion:
    """A region multiplies the loss at each place, whatever the loss."""

    def test_one_everywhere_changes_nothing(self, loss, target):
        sample = capture()
        whole = replace(target, region=torch.ones(1, 4, 24))
        torch.testing.assert_close(loss(sample, whole), loss(sample, target))

    def test_a_region_and_its_complement_add_up(self, loss, target):
        sample, region = capture(), torch.rand(2, 4, 24)
        parts = [loss(sample, replace(target, region=part)) for part in (region, 1 - region)]
        torch.testing.assert_close(sum(parts), loss(sample, target))

    def test_what_is_outside_has_no_gradient(self, loss, target):
        region = torch.zeros(1, 4, 24)
        assert loss(capture(), replace(target, region=region)) == 0

    def test_jobs_have_regions_of_their_own(self, loss, target):
        sample, region = capture(), torch.stack([torch.ones(4, 24), torch.zeros(4, 24)])
        per_job = loss.per_job(sample, replace(target, region=region))
        torch.testing.assert_close(per_job[0], loss.per_job(sample, target)[0])
        assert per_job[1] == 0


def test_losses_read_features_of_their_own():
    other = AttentionFlow(block=1, window=3)
    reference, sample = ({0: capture(), 1: capture(block=1)} for _ in range(2))

    def both(found):
        query, key = ({**found[0].query, **found[1].query}, {**found[0].key, **found[1].key})
        return replace(found[0], query=query, key=key)

    target = MotionTarget.extract(both(reference).mapped(torch.Tensor.detach), [FLOW, other])
    assert target.request == Request(query_key=frozenset({0, 1}))
    for feature, block in ((None, 0), (other, 1)):
        alone = MotionTarget.extract(reference[block].mapped(torch.Tensor.detach), [feature or FLOW])
        expected = MotionFlowLoss()(sample[block], alone)
        torch.testing.assert_close(MotionFlowLoss(feature=feature)(both(sample), target), expected)


def test_windows_follow_the_reference_or_the_sample():
    reference, sample = capture(), capture()
    for centres in ("reference", "sample"):
        feature = AttentionFlow(block=0, window=3, centres=centres)
        target = MotionTarget.extract(reference.mapped(torch.Tensor.detach), [feature]).following(sample)
        expected = feature.extract({"reference": reference, "sample": sample}[centres])["centres"]
        assert torch.equal(target.of(None)[1]["centres"], expected)


@pytest.mark.parametrize("window", [0, -3])
def test_a_window_of_no_tokens_is_refused(window):
    with pytest.raises(UserError, match=str(window)):
        WindowLoss(window=window)


@pytest.mark.parametrize(("num_frames", "span"), [(2, 4), (9, 2)])
def test_too_few_frames_for_the_window_loss_are_refused(num_frames, span):
    with pytest.raises(UserError, match="span"):
        WindowLoss().check(num_frames, AttentionFlow(span=span))
    MotionFlowLoss().check(num_frames, AttentionFlow(span=span))
    WindowLoss().check(3, AttentionFlow(span=None))


def test_one_latent_frame_is_refused():
    with pytest.raises(UserError, match="1 latent frame"):
        MotionFlowLoss().check(1, FLOW)


@pytest.mark.parametrize(
    "setting", [{"block": -1}, {"window": 0}, {"tile": (0, 4)}, {"span": 1}, {"temperature": 0.0}, {"window": -3}]
)
def test_impossible_settings_of_the_feature_are_refused(setting):
    with pytest.raises(UserError, match=next(iter(setting))):
        AttentionFlow(**setting)
