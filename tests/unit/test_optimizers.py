import pytest
import torch

from fastvmt_pl.optimizers import NormalizedGradientDescent


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
