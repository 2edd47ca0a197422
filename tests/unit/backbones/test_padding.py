import pytest
import torch

from fastvmt_pl.backbones import WanBackbone
from fastvmt_pl.backbones.padding import NUM_TEXT_TOKENS, padding_logits, trim_padding

PROMPTS = ["a red circle on a gray background", ""]


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.02)])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_counted_zeros_give_what_512_tokens_give(dtype, tolerance, checkpointing):
    backbone = WanBackbone("wan-tiny", dtype=dtype, gradient_checkpointing=checkpointing)
    text = backbone.embed_prompts(PROMPTS)
    latents = torch.randn(2, *backbone.latent_shape(5, 48, 48))
    timestep = torch.tensor([700.0, 300.0])
    found = []
    for given in (text, trim_padding(text)):
        start = latents.to(backbone.dtype).requires_grad_()
        velocity = backbone.transformer(start, timestep, given, return_dict=False)[0].float()
        found.append((velocity, torch.autograd.grad(velocity.pow(2).sum(), start)[0].float()))
    for whole, trimmed in zip(*found, strict=True):
        assert (whole - trimmed).norm() <= tolerance * whole.norm()


def test_only_zeros_behind_the_longest_prompt_are_dropped():
    text = torch.zeros(2, NUM_TEXT_TOKENS, 4)
    text[0, :9], text[1, :5] = 1.0, -1.0
    assert trim_padding(text).shape == (2, 11, 4)
    assert torch.equal(trim_padding(torch.ones_like(text)), torch.ones_like(text))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("count", [2, 3, 100, 511, 514])
def test_the_logits_of_the_zeros_add_up_to_their_number(count, dtype):
    assert float(padding_logits(count, dtype).double().exp().sum()) == pytest.approx(count, rel=5e-4)
