import pytest
import torch

from fastvmt_pl.method.optimizers import NormalizedGradientDescent, clip_per_job, cosine_per_job, scale_per_job

SIZES = torch.tensor([1e-40, 1e-30, 1e-22, 1e-12, 1.0, 1e12, 1e19, 1e30, 1e37]).view(-1, 1, 1)
"""Of gradients of one job each."""


def test_each_job_moves_by_the_rate_along_its_own_gradient():
    latents = torch.zeros(2, 3, 4, requires_grad=True)
    latents.grad = torch.randn(2, 3, 4) * torch.tensor([1e-6, 1e3]).view(2, 1, 1)
    NormalizedGradientDescent([latents], lr=0.05).step()
    size = latents.detach().pow(2).flatten(1).mean(1).sqrt()
    torch.testing.assert_close(size, torch.tensor([0.05, 0.05]))
    cosine = torch.nn.functional.cosine_similarity(latents.flatten(1), latents.grad.flatten(1))
    torch.testing.assert_close(cosine, torch.tensor([-1.0, -1.0]))


def test_a_zero_gradient_moves_nothing():
    latents = torch.ones(1, 3, requires_grad=True)
    latents.grad = torch.zeros(1, 3)
    NormalizedGradientDescent([latents]).step()
    assert torch.equal(latents.detach(), torch.ones(1, 3))


def test_momentum_adds_up_alike_steps():
    latents = torch.zeros(1, 4, requires_grad=True)
    optimizer = NormalizedGradientDescent([latents], lr=1.0, momentum=0.5)
    for _ in range(2):
        latents.grad = torch.ones(1, 4)
        optimizer.step()
    torch.testing.assert_close(latents.detach(), torch.full((1, 4), -2.5))


@pytest.mark.parametrize("options", [{"lr": 0.0}, {"lr": -1.0}, {"momentum": 1.0}, {"momentum": -0.1}])
def test_impossible_settings_are_refused(options):
    with pytest.raises(ValueError, match="momentum"):
        NormalizedGradientDescent([torch.zeros(1, requires_grad=True)], **options)


@pytest.fixture
def directions():
    return torch.randn(1, 3, 40).clamp(-2, 2).expand(len(SIZES), -1, -1)


def test_gradients_of_any_size_give_the_same_unit_direction(directions):
    gradient = SIZES * directions
    expected = gradient.double() / gradient.double().pow(2).mean((1, 2), keepdim=True).sqrt()
    torch.testing.assert_close(scale_per_job(gradient), expected.float())
    for job in range(len(gradient)):  # whatever the others are
        assert torch.equal(scale_per_job(gradient[job : job + 1])[0], scale_per_job(gradient)[job])


def test_ordinary_gradients_are_scaled_and_clipped_as_by_the_plain_formula():
    gradient = torch.randn(4, 3, 5, 7) * torch.tensor([1e-8, 1e-3, 1.0, 1e6]).view(4, 1, 1, 1)
    size = gradient.pow(2).flatten(1).mean(1).sqrt().view(4, 1, 1, 1)
    assert torch.equal(scale_per_job(gradient), gradient / size)
    clipped = [job * (0.5 / (job.norm() + 1e-6)).clamp(max=1.0) for job in gradient]
    assert torch.equal(clip_per_job(gradient, 0.5), torch.stack(clipped))
    other = torch.randn_like(gradient)
    plain = torch.nn.functional.cosine_similarity(gradient[1:].flatten(1), other[1:].flatten(1))
    assert torch.equal(cosine_per_job(gradient, other)[1:], plain)


def test_gradients_of_any_size_are_clipped_to_the_limit_and_small_ones_left_alone(directions):
    gradient = SIZES * directions
    norms = gradient.double().flatten(1).norm(dim=1)
    clipped = clip_per_job(gradient, 0.5)
    torch.testing.assert_close(clipped.double().flatten(1).norm(dim=1), norms.clamp(max=0.5), rtol=1e-5, atol=0.0)
    torch.testing.assert_close(clipped[:4], gradient[:4], rtol=1e-6, atol=0.0)


def test_the_cosine_does_not_depend_on_sizes(directions):
    other = directions + torch.randn_like(directions[:1])
    expected = torch.nn.functional.cosine_similarity(directions.flatten(1), other.flatten(1))
    torch.testing.assert_close(cosine_per_job(SIZES * directions, SIZES.flip(0) * other), expected, rtol=1e-4, atol=0)
    assert torch.equal(cosine_per_job(torch.zeros(1, 3), torch.ones(1, 3)), torch.zeros(1))
