import pytest
import torch

from fastvmt_pl.backbones import DiffusersBackbone
from fastvmt_pl.backbones.families.wan_padding import NUM_TEXT_TOKENS, padding_logits, trim_padding

PROMPTS = ["a red circle on a gray background", ""]


def found(backbone, latents, text):
    """Return the velocity, and the gradient of its squares."""
    start = latents.to(backbone.dtype).requires_grad_()
    timestep = torch.tensor([700.0, 300.0]).repeat(len(latents) // 2)
    velocity = backbone.transformer(start, timestep, text, return_dict=False)[0].float()
    return velocity, torch.autograd.grad(velocity.pow(2).sum(), start)[0].float()


def whole_and_trimmed(num_latents, **settings):
    """Return what is found with 512 tokens, and with their zeros counted."""
    backbone = DiffusersBackbone("wan-tiny", **settings)
    latents = torch.randn(num_latents, *backbone.latent_shape(5, 16, 16), generator=torch.Generator().manual_seed(0))
    text = backbone.embed_prompts(PROMPTS).tensors["text"].repeat(num_latents // 2, 1, 1)
    return found(backbone, latents, text), found(backbone, latents, trim_padding(text))


@pytest.mark.parametrize("checkpointing", [False, True])
def test_counted_zeros_give_what_512_tokens_give(checkpointing):
    for whole, trimmed in zip(*whole_and_trimmed(2, gradient_checkpointing=checkpointing), strict=True):
        assert (whole - trimmed).norm() <= 1e-5 * whole.norm()


def test_in_low_precision_they_are_as_near_to_the_exact_result():
    exact, _ = whole_and_trimmed(8)
    for right, whole, trimmed in zip(exact, *whole_and_trimmed(8, dtype="bfloat16"), strict=True):
        rounding = typical_norm(whole - right)
        assert rounding <= 0.05 * typical_norm(right)
        assert typical_norm(trimmed - right) <= 1.5 * rounding


def typical_norm(latents):
    """Return the median norm: one of many gradients may be steep, where rounding goes far."""
    return latents.flatten(1).norm(dim=1).median()


def test_only_zeros_behind_the_longest_prompt_are_dropped():
    text = torch.zeros(2, NUM_TEXT_TOKENS, 4)
    text[0, :9], text[1, :5] = 1.0, -1.0
    assert trim_padding(text).shape == (2, 11, 4)
    assert torch.equal(trim_padding(torch.ones_like(text)), torch.ones_like(text))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("count", [2, 3, 100, 511, 514])
def test_the_logits_of_the_zeros_add_up_to_their_number(count, dtype):
    assert float(padding_logits(count, dtype).double().exp().sum()) == pytest.approx(count, rel=5e-4)
