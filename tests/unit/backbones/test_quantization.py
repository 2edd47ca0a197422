"""Frozen weights in fewer bits: less memory, and nearly the same predictions and gradients."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn.functional import cosine_similarity

from fastvmt_pl.backbones import DiffusersBackbone
from fastvmt_pl.backbones.model_folder import BUNDLED
from fastvmt_pl.backbones.request import Request
from fastvmt_pl.backbones.untrained import untrained
from fastvmt_pl.distillation.motion_distillation import MotionDistillation
from fastvmt_pl.errors import UserError
from fastvmt_pl.method.motion_transfer import MotionTransfer
from fastvmt_pl.objectives import AttentionFlow
from fastvmt_pl.planning import Workload, advise, plan
from fastvmt_pl.planning.meter import stored_tensors

PROMPTS = ["a red circle on a gray background", "a blue cross on a navy background"]
TIMESTEP = torch.tensor([700.0, 300.0])
EVERYTHING = Request(frozenset({2}), frozenset({3}), frozenset({1}), denoising=True)


def num_bytes(transformer):
    return sum(each.nbytes for parameter in transformer.parameters() for each in stored_tensors(parameter))


@pytest.fixture(scope="module")
def plain():
    return DiffusersBackbone()


@pytest.fixture(params=["fp8", "int8"])
def quantization(request):
    return request.param


@pytest.fixture(params=[False, True], ids=["stored", "checkpointed"])
def quantized(request, quantization):
    return DiffusersBackbone(quantization=quantization, gradient_checkpointing=request.param)


@pytest.fixture
def latents(plain):
    return torch.randn(2, *plain.latent_shape(5, 32, 32), requires_grad=True)


def brought(backbone, latents):
    """Queries, what comes before the rotary embedding, hidden states and velocity, and a gradient of each."""
    found = backbone.capture(latents, TIMESTEP, backbone.embed_prompts(PROMPTS), EVERYTHING)
    tensors = [found.query[2], found.unrotated_key[3], found.hidden[1]]
    weights = [torch.randn(each.shape, generator=torch.Generator().manual_seed(0)) for each in tensors]
    gradients = [
        torch.autograd.grad((each * weight).sum(), latents, retain_graph=True)[0]
        for each, weight in zip(tensors, weights, strict=True)
    ]
    return [*tensors, found.velocity], gradients


def test_predictions_and_gradients_are_nearly_the_same(plain, quantized, latents):
    (expected, true), (found, gradients) = brought(plain, latents), brought(quantized, latents)
    for one, other in zip(found, expected, strict=True):
        assert (one - other).norm() < 0.1 * other.norm()
    for one, other in zip(gradients, true, strict=True):
        assert cosine_similarity(one.flatten(), other.flatten(), dim=0) > 0.98


def test_an_early_exit_leaves_no_layer_in_full_precision(quantized, latents):
    quantized.load_weights()

    def stored():
        parameters = quantized.transformer.named_parameters()
        return {name: [each.clone() for each in stored_tensors(parameter)] for name, parameter in parameters}

    before = stored()
    brought(quantized, latents)
    quantized.query_key(latents, TIMESTEP, quantized.embed_prompts(PROMPTS), 1)[0].sum().backward()
    for name, tensors in stored().items():
        for each, expected in zip(tensors, before[name], strict=True):
            assert each.dtype == expected.dtype
            assert torch.equal(each.float(), expected.float()), name


def test_weights_take_half_of_bfloat16_and_a_plan_knows(quantization):
    half, quantized = (
        DiffusersBackbone(dtype="bfloat16"),
        DiffusersBackbone(dtype="bfloat16", quantization=quantization),
    )
    assert num_bytes(quantized.transformer) < 0.65 * num_bytes(half.transformer)
    assert num_bytes(untrained(quantized).expert(0)) == num_bytes(quantized.transformer)


def test_a_plan_counts_layers_that_are_cast_while_they_run(quantization):
    work = Workload(5, (48, 48), AttentionFlow(block=4, window=7), ("a red circle",), 1, 1, 1, 1, 4)
    found = {
        name: plan(MotionTransfer(DiffusersBackbone(dtype="bfloat16", **options), negative_prompt=""), work)
        for name, options in {
            "plain": {"gradient_checkpointing": True},
            "quantized": {"gradient_checkpointing": True, "quantization": quantization},
            "quantized, stored": {"quantization": quantization},
        }.items()
    }
    weights = {name: each.sizes["transformer"].num_bytes for name, each in found.items()}
    assert weights["quantized"] < 0.65 * weights["plain"]
    more = found["quantized"].rehearsal.gradient[True].growth - found["plain"].rehearsal.gradient[True].growth
    assert more < 0.25 * weights["plain"]  # a block that is computed again, of six
    kept = found["quantized, stored"].rehearsal.gradient[False].growth - found["plain"].rehearsal.gradient[False].growth
    assert kept > 0.3 * weights["plain"]  # the graph keeps the layers that were cast, up to the block that is read


def test_it_is_another_model_for_the_cache(plain):
    others = [DiffusersBackbone(quantization=each).fingerprint() for each in ("fp8", "int8")]
    assert len({plain.fingerprint(), *others}) == 3


def test_a_lora_that_is_switched_on_is_not_quantized(plain, quantization, latents, tmp_path, write_lora):
    path = write_lora(tmp_path / "lora.safetensors", 0.1)
    layer = "diffusion_model.blocks.1.self_attn.q"
    save_file(
        {**load_file(path), f"{layer}.diff": 0.01 * torch.randn(144, 144), f"{layer}.diff_b": torch.randn(144)}, path
    )
    loras, text = {str(path): 1.0}, plain.embed_prompts(PROMPTS)
    quantized = DiffusersBackbone(quantization=quantization)
    with torch.no_grad():
        effects = []
        for backbone in (plain, quantized):
            without = backbone.velocity(latents, TIMESTEP, text)
            with backbone.adapted(loras):
                effects.append(backbone.velocity(latents, TIMESTEP, text) - without)
    assert cosine_similarity(*(each.flatten() for each in effects), dim=0) > 0.95


def test_what_does_not_go_with_it_is_refused(quantization, monkeypatch):
    with pytest.raises(UserError, match="compile"):
        DiffusersBackbone(quantization=quantization, compile=True)
    with pytest.raises(UserError, match="quantization"):
        MotionDistillation(DiffusersBackbone(quantization=quantization))
    monkeypatch.setattr("fastvmt_pl.backbones.pretrained.find_spec", lambda name: None)
    DiffusersBackbone(quantization="fp8")
    with pytest.raises(UserError, match=r"fastvmt_pl\[int8\]"):
        DiffusersBackbone(quantization="int8")


def test_a_plan_advises_it_unless_blocks_are_compiled(tmp_path):
    folder = shutil.copytree(BUNDLED["wan-tiny"], tmp_path / "model")
    config = json.loads((folder / "transformer" / "config.json").read_text())
    (folder / "transformer" / "config.json").write_text(json.dumps(config | {"ffn_dim": 65536}))  # weights are most
    work = Workload(5, (16, 16), AttentionFlow(block=4, window=7), ("a red circle",), 1, 1, 1, 1, 4)
    settings = {"dtype": "bfloat16", "gradient_checkpointing": True, "offload": True}
    for compiled in (False, True):
        module = MotionTransfer(DiffusersBackbone(str(folder), compile=compiled, **settings), negative_prompt="")
        planned = plan(module, work)
        advised = [change.setting for change in advise(module, work, planned, planned.peak // 2)]
        assert ("quantization: fp8" in advised) == (not compiled)
