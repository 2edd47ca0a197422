import diffusers
import pytest
import torch
from diffusers.utils import is_flash_attn_available

from fastvmt_pl.backbones import DiffusersBackbone
from fastvmt_pl.backbones.attention_kernel import KNOWN, check_backend, try_backend


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fastest", "'fastest'; use one of flash, .*_native_math"),
        ("", "use one of"),
        ("flash_hub", "fetched from a hub; use one of"),
        ("sage", "no gradients; use one of"),
    ],
)
def test_a_backend_that_cannot_be_is_refused_with_those_that_can(name, message):
    with pytest.raises(ValueError, match=message):
        DiffusersBackbone(attention_backend=name)


@pytest.mark.skipif(is_flash_attn_available(), reason="the package is there")
def test_a_backend_whose_package_is_missing_is_refused_before_weights_are_read():
    with pytest.raises(ValueError, match=r"'flash' cannot be used: .*install `flash-attn"):
        DiffusersBackbone(attention_backend="flash")


def test_pytorchs_own_backends_are_always_there():
    for name in KNOWN:
        if name in ("native", "flex", "_native_math", "_native_flash", "_native_efficient", "_native_cudnn"):
            check_backend(name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_backend_is_tried_forward_and_backward(dtype):
    for name in ("native", "_native_math", "_native_flash"):
        try_backend(name, torch.device("cpu"), dtype, head_dim=48)
    for name in ("flex", "_native_cudnn"):  # the one has no backward pass on a CPU, the other no forward pass
        with pytest.raises(ValueError, match=f"'{name}' does not work forward and backward on cpu"):
            try_backend(name, torch.device("cpu"), dtype, head_dim=48)


def test_a_device_where_the_backend_does_not_work_is_refused_before_weights_are_read():
    with pytest.raises(ValueError, match="'flex' does not work forward and backward on meta"):
        DiffusersBackbone(attention_backend="flex").to("meta")
    DiffusersBackbone(attention_backend="_native_math").to("meta")


def test_the_users_default_is_not_asked_to_mask_padding():
    """What flash attention, as most, refuses; the default may also come from DIFFUSERS_ATTN_BACKEND."""
    backbone = DiffusersBackbone()
    latents, text = torch.randn(1, *backbone.latent_shape(5, 32, 32)), backbone.embed_prompts(["a red circle"])
    with torch.no_grad():
        expected = backbone.velocity(latents, 500.0, text)
        with diffusers.attention_backend("_native_flash"):
            torch.testing.assert_close(backbone.velocity(latents, 500.0, text), expected)
            backbone.transformer.set_attention_backend("_native_flash")  # cross-attention, too
            with pytest.raises(ValueError, match="mask"):
                backbone.velocity(latents, 500.0, text)


def test_one_backbones_backend_is_not_anothers():
    chosen, other = DiffusersBackbone(attention_backend="_native_math"), DiffusersBackbone()
    assert {block.attn1.processor._attention_backend for block in chosen.transformer.blocks} == {"_native_math"}
    assert {block.attn1.processor._attention_backend for block in other.transformer.blocks} == {None}
