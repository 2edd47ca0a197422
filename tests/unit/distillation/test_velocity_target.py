import torch

from fastvmt_pl.backbones.condition import Condition
from fastvmt_pl.distillation.velocity_target import large_steps, noised_videos, spread, teacher_steps
from fastvmt_pl.method.transfer_jobs import DistillationBatch

SHAPE = (8, 3, 4, 4)
LEVELS = (0.0, 1.0)


def batch(**changes):
    draw = torch.Generator().manual_seed(1)
    trajectory = torch.randn(2, 5, *SHAPE, generator=draw)
    settings = {
        "latents": trajectory[:, -1],
        "condition": Condition({"text": torch.randn(2, 6, 64, generator=draw)}),
        "draws": torch.tensor([3, 4]),
        "trajectory": trajectory,
        "sigmas": torch.tensor([1.0, 0.9, 0.75, 0.5, 0.0]).expand(2, -1),
        "guidance_scale": torch.tensor([1.0, 1.0]),
        "problems": [],
    }
    return DistillationBatch(**(settings | changes))


def test_noised_videos_have_the_level_and_the_velocity_that_they_say():
    given = batch()
    noisy, sigma, velocity = noised_videos(given, 0, 3.0, LEVELS)
    assert ((sigma > 0) & (sigma < 1)).all()
    torch.testing.assert_close(noisy - sigma.view(-1, 1, 1, 1, 1) * velocity, given.latents)
    again = noised_videos(batch(draws=torch.tensor([4, 3])), 0, 3.0, LEVELS)
    assert torch.equal(again.sigma, sigma.flip(0))  # a draw's level is its own, wherever it stands in a batch
    assert not torch.equal(noised_videos(given, 1, 3.0, LEVELS).latents, noisy)


def test_walking_by_what_is_learned_follows_the_trajectory():
    """What is predicted, put through guidance and an Euler step, has to lead to the teacher's next latents."""
    scale = torch.tensor([4.0, 1.0])
    given, negative = batch(guidance_scale=scale), torch.randn(2, *SHAPE)
    latents, sigma, velocity = teacher_steps(given, 0, LEVELS, lambda *_: negative)
    step = [int((given.sigmas[0] == level).nonzero()) for level in sigma]
    scale = scale.view(-1, 1, 1, 1, 1)
    guided = negative + scale * (velocity - negative)
    pace = torch.stack([given.sigmas[0][s + 1] - given.sigmas[0][s] for s in step]).view(-1, 1, 1, 1, 1)
    expected = torch.stack([given.trajectory[number, s + 1] for number, s in enumerate(step)])
    torch.testing.assert_close(latents + pace * guided, expected, atol=1e-5, rtol=1e-5)


def test_large_steps_lead_along_the_trajectory():
    """From pure noise, one of two steps leads to the middle of the path before the shift, and the next to its end."""
    middle = torch.tensor(0.75)  # half of the way, with a shift of 3
    for level, expected in ((1.0, 2), (float(middle), 4)):
        draws = torch.arange(200)
        given = batch(
            draws=draws,
            latents=torch.zeros(200, *SHAPE),
            trajectory=torch.randn(1, 5, *SHAPE).expand(200, -1, -1, -1, -1, -1),
            sigmas=torch.tensor([1.0, 0.9, 0.75, 0.5, 0.0]).expand(200, -1),
            guidance_scale=torch.full((200,), 4.0),
        )
        latents, sigma, velocity = large_steps(given, 0, LEVELS, 2, 3.0)
        here = int((sigma == level).nonzero()[0, 0])
        end = given.sigmas[0, expected]
        torch.testing.assert_close(latents[here] + (end - level) * velocity[here], given.trajectory[0, expected])


def test_large_steps_between_the_teachers_levels_lead_along_its_straight_steps():
    trajectory = torch.stack([level * torch.ones(2, *SHAPE) for level in (1.0, 0.9, 0.75, 0.5, 0.0)], 1)
    latents, sigma, velocity = large_steps(batch(trajectory=trajectory), 0, LEVELS, 7, 3.0)
    torch.testing.assert_close(velocity, torch.ones_like(velocity))
    torch.testing.assert_close(latents[:, 0, 0, 0, 0], sigma)


def test_steps_as_small_as_the_teachers_lead_where_its_own_do():
    given = batch(sigmas=torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0]).expand(2, -1))
    small = teacher_steps(given, 0, LEVELS, lambda *_: None)
    large = large_steps(given, 0, LEVELS, 4, 1.0)
    for one, other in zip(small, large, strict=True):
        torch.testing.assert_close(one, other)


def test_draws_are_spread_evenly():
    values = spread(torch.arange(1000), 0, 2**0.5)
    assert torch.histc(values, 10, 0, 1).sub(100).abs().max() <= 3
    assert not torch.equal(values, spread(torch.arange(1000), 1, 2**0.5))
