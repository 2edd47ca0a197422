"""Blocks that wait in the CPU's memory: the same predictions and gradients, and only some of them on the device."""

import pytest
import torch
from diffusers.hooks.group_offloading import ModuleGroup
from safetensors.torch import load_file, save_file

from fastvmt_pl.backbones import DiffusersBackbone
from fastvmt_pl.backbones.block_offload import HOOK
from fastvmt_pl.backbones.request import Request
from fastvmt_pl.distillation.motion_distillation import MotionDistillation
from fastvmt_pl.errors import UserError
from fastvmt_pl.method.motion_transfer import MotionTransfer
from fastvmt_pl.objectives import AttentionFlow
from fastvmt_pl.planning import Workload, plan
from fastvmt_pl.planning.meter import stored_tensors
from fastvmt_pl.planning.run_plan import Size

PROMPTS = ["a red circle on a gray background", "a blue cross on a navy background"]
EVERYTHING = Request(frozenset({2}), frozenset({1}), frozenset({1}), denoising=True)


@pytest.fixture(
    params=[{}, {"gradient_checkpointing": True}, {"quantization": "fp8"}, {"quantization": "int8"}], ids=str
)
def settings(request):
    return request.param


@pytest.fixture
def brought(monkeypatch):
    """The blocks that were brought to the device, in turn."""
    found, onload = [], ModuleGroup.onload_
    monkeypatch.setattr(ModuleGroup, "onload_", lambda self: [found.append(self.modules[0]), onload(self)])
    return found


def num_bytes(backbone):
    return sum(each.nbytes for weight in backbone.transformer.parameters() for each in stored_tensors(weight))


def waiting(backbone):
    return [
        n for n, block in enumerate(backbone.transformer.blocks) if block._diffusers_hook.get_hook(HOOK) is not None
    ]


def test_predictions_and_gradients_are_the_same(settings, brought):
    plain, offloaded = DiffusersBackbone(**settings), DiffusersBackbone(offload_blocks=True, **settings)
    latents, found = torch.randn(2, *plain.latent_shape(5, 32, 32), requires_grad=True), []
    for backbone in (plain, offloaded):
        text = backbone.embed_prompts(PROMPTS)
        with torch.no_grad():
            before = backbone.velocity(latents, 500.0, text)
        capture = backbone.capture(latents, 500.0, text, EVERYTHING)
        weight = torch.randn(capture.query[2].shape, generator=torch.Generator().manual_seed(0))
        (gradient,) = torch.autograd.grad((capture.query[2] * weight).sum(), latents)
        with torch.no_grad():
            after = backbone.velocity(latents, 500.0, text)
        found.append([before, capture.query[2], capture.velocity, gradient, after])
    for expected, one in zip(*found, strict=True):
        assert torch.equal(one, expected)
    blocks = list(offloaded.transformer.blocks)
    assert waiting(offloaded) == [3, 4, 5]
    assert [blocks.index(block) for block in brought] == [0, 1, 2, 3, 4, 5, 3, 4, 5, 3, 4, 5]


def test_a_gradient_brings_no_block_that_waits(brought):
    backbone = DiffusersBackbone(offload_blocks=True)
    latents = torch.randn(1, *backbone.latent_shape(5, 32, 32), requires_grad=True)
    query, _ = backbone.query_key(latents, 500.0, backbone.embed_prompts(PROMPTS[:1]), 2)
    query.sum().backward()
    assert not brought


def test_a_lora_beside_waiting_blocks_works_and_one_that_replaces_is_refused(tmp_path, write_lora):
    path = write_lora(tmp_path / "lora.safetensors", 0.1)
    loras, found = {str(path): 1.0}, []
    latents = torch.randn(1, *DiffusersBackbone().latent_shape(5, 32, 32))
    for backbone in (DiffusersBackbone(), DiffusersBackbone(offload_blocks=True)):
        backbone.check_loras(loras)
        with torch.no_grad(), backbone.adapted(loras):
            found.append(backbone.velocity(latents, 500.0, backbone.embed_prompts(PROMPTS[:1])))
    assert torch.equal(*found)
    save_file({**load_file(path), "diffusion_model.blocks.1.modulation.diff": torch.zeros(1, 6, 144)}, path)
    DiffusersBackbone().check_loras(loras)
    with pytest.raises(UserError, match="offload_blocks"):
        DiffusersBackbone(offload_blocks=True).check_loras(loras)


def test_a_model_that_moves_has_the_same_blocks_waiting():
    backbone = DiffusersBackbone(offload_blocks=True)
    backbone.keep_blocks(2)
    backbone.load_weights()
    backbone.to("cpu:0")
    assert waiting(backbone) == [2, 3, 4, 5]
    backbone.keep_blocks(1)
    assert waiting(backbone) == [2, 3, 4, 5]


@pytest.mark.parametrize("quantization", [None, "fp8", "int8"])
def test_a_plan_has_two_waiting_blocks_in_memory(quantization):
    work = Workload(5, (16, 16), AttentionFlow(block=2, window=7), (PROMPTS[0],), 1, 1, 1, 1, 4)
    readings = {}
    for offloaded in (False, True):
        backbone = DiffusersBackbone(dtype="bfloat16", quantization=quantization, offload_blocks=offloaded)
        found = plan(MotionTransfer(backbone, negative_prompt=""), work)
        readings[offloaded] = found.rehearsal.gradient[False], found.rehearsal.denoising
        size = found.sizes["transformer"]
    block = sum(
        each.nbytes for weight in backbone.transformer.blocks[0].parameters() for each in stored_tensors(weight)
    )
    (gradient, denoising), (less, running) = readings[False], readings[True]
    assert size == Size(size.num_parameters, num_bytes(backbone))
    assert gradient.before - less.before == pytest.approx(3 * block, rel=0.05)
    assert gradient.peak - less.peak == pytest.approx(3 * block, rel=0.05)
    assert denoising.peak - running.peak == pytest.approx(block, rel=0.2)
    assert (gradient.flops, denoising.flops) == (less.flops, running.flops)


def test_a_gradient_of_the_velocity_keeps_all_blocks():
    backbone = DiffusersBackbone(offload_blocks=True)
    latents = torch.randn(1, *backbone.latent_shape(5, 32, 32), requires_grad=True)
    found = backbone.capture(latents, 500.0, backbone.embed_prompts(PROMPTS[:1]), Request(velocity=True))
    found.velocity.sum().backward()
    assert not waiting(backbone)


def test_what_does_not_go_with_it_is_refused():
    with pytest.raises(UserError, match="offload_blocks"):
        DiffusersBackbone(offload_blocks=True, compile=True)
    with pytest.raises(UserError, match="offload_blocks"):
        MotionDistillation(DiffusersBackbone(offload_blocks=True))
