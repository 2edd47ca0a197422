"""LoRAs that are on for a while do what fused ones do, and leave the model to the bit as it was."""

from copy import deepcopy

import pytest
import torch

from fastvmt_pl.backbones.families.wan import Wan
from fastvmt_pl.errors import UserError
from fastvmt_pl.lora import SwitchedLoras, fuse_loras

LAYERS = ("blocks.0.attn1.to_q", "blocks.1.attn2.to_v", "blocks.1.ffn.net.2", "proj_out", "patch_embedding")
NAMES = Wan.layer_names


@pytest.fixture
def inputs():
    return {
        "hidden_states": torch.randn(2, 3, 2, 8, 8),
        "timestep": torch.tensor([700.0, 100.0]),
        "encoder_hidden_states": torch.randn(2, 5, 10),
        "return_dict": False,
    }


@pytest.fixture
def file(transformer, lora):
    weights, tensors = dict(transformer.named_parameters()), {}
    for layer in LAYERS:
        shape = weights[f"{layer}.weight"].shape
        tensors[f"transformer.{layer}.lora_A.weight"] = 0.3 * torch.randn(3, *shape[1:])
        tensors[f"transformer.{layer}.lora_B.weight"] = 0.3 * torch.randn(shape[0], 3, *(1 for _ in shape[2:]))
        tensors[f"transformer.{layer}.alpha"] = torch.tensor(2.0)
    tensors["diffusion_model.blocks.0.self_attn.norm_q.diff"] = torch.randn(24)
    tensors["diffusion_model.blocks.0.self_attn.q.diff_b"] = torch.randn(24)
    tensors["diffusion_model.blocks.0.self_attn.k.diff"] = 0.3 * torch.randn(24, 24)
    return lora(tensors)


def test_on_it_is_fused_and_off_it_is_as_before(transformer, file, inputs):
    fused = deepcopy(transformer)
    fuse_loras(fused, {file: 0.5}, NAMES)
    before = {name: (parameter, parameter.clone()) for name, parameter in transformer.named_parameters()}
    (plain,), (expected,) = transformer(**inputs), fused(**inputs)
    switched = SwitchedLoras(transformer, {file: 0.5}, NAMES)
    for _ in range(2):
        with switched.on():
            torch.testing.assert_close(transformer(**inputs)[0], expected, rtol=1e-4, atol=1e-4)
        assert torch.equal(transformer(**inputs)[0], plain)
    assert not torch.allclose(plain, expected, atol=1e-2)
    for name, parameter in transformer.named_parameters():
        assert parameter is before[name][0]
        assert torch.equal(parameter, before[name][1])


def test_it_does_not_change_with_its_file(transformer, file, inputs):
    switched = SwitchedLoras(transformer, {file: 1.0}, NAMES)
    with switched.on():
        (before,) = transformer(**inputs)
        content = bytearray(file.read_bytes())
        content[-2000:] = bytes(2000)
        with file.open("r+b") as written:  # in place, as a copy over it does
            written.write(content)
        assert torch.equal(transformer(**inputs)[0], before)


def test_an_error_switches_it_off(transformer, file, inputs):
    (plain,) = transformer(**inputs)
    with pytest.raises(ZeroDivisionError), SwitchedLoras(transformer, {file: 1.0}, NAMES).on():
        _ = 1 / 0
    assert torch.equal(transformer(**inputs)[0], plain)


def test_compiled_blocks_have_it_too(transformer, file, inputs):
    switched = SwitchedLoras(transformer, {file: 1.0}, NAMES)
    with switched.on():
        (expected,) = transformer(**inputs)
    with torch.compiler.set_stance(force_backend="eager"):
        for block in transformer.blocks:
            block.compile()
        (plain,) = transformer(**inputs)
        with switched.on():
            torch.testing.assert_close(transformer(**inputs)[0], expected)
        assert torch.equal(transformer(**inputs)[0], plain)


def test_a_file_of_another_model_is_refused(transformer, lora):
    path = lora({"transformer.blocks.9.attn1.to_q.lora_A.weight": torch.zeros(2, 24)})
    with pytest.raises(UserError, match=r"blocks\.9"):
        SwitchedLoras(transformer, {path: 1.0}, NAMES)
