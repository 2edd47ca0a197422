import pytest
import torch

from fastvmt_pl.method.measuring import motion_of, relative_attention_flow_error
from fastvmt_pl.method.sampling import job_noise
from fastvmt_pl.objectives import AttentionFlow, MotionTarget

FLOW = AttentionFlow(block=2, window=5)


def target(flow):
    return MotionTarget({FLOW: {"flow": flow}}, FLOW, (3, 4), 5)


def test_a_still_video_has_an_error_of_one_and_the_same_motion_none():
    flow = torch.randn(2, 3, 12, 2)
    torch.testing.assert_close(
        relative_attention_flow_error(target(torch.zeros_like(flow)), target(flow)), torch.ones(2)
    )
    torch.testing.assert_close(relative_attention_flow_error(target(flow), target(flow)), torch.zeros(2))
    torch.testing.assert_close(relative_attention_flow_error(target(-flow), target(flow)), torch.full((2,), 2.0))


def test_what_the_reference_leaves_still_does_not_count():
    flow = torch.zeros(1, 3, 12, 2)
    flow[:, :, :4] = torch.randn(1, 3, 4, 2)
    noisy = flow.clone()
    noisy[:, :, 4:] = torch.randn(1, 3, 8, 2)
    assert relative_attention_flow_error(target(noisy), target(flow)) == 0


def test_nothing_that_moves_is_no_division_by_zero():
    flow = torch.zeros(1, 3, 12, 2)
    assert relative_attention_flow_error(target(flow), target(flow)) == 0


@pytest.mark.parametrize("number", [1, 2])
def test_a_video_is_measured_as_it_is_alone(backbone, number):
    latents = job_noise((8, 3, 12, 12), [3, 4])
    alone, together = motion_of(backbone, latents[:1], FLOW), motion_of(backbone, latents[:number], FLOW)
    assert torch.equal(alone.of(None)[1]["flow"][0], together.of(None)[1]["flow"][0])
