"""Each form of LoRA file against a merge by hand, and against diffusers' own loader where that applies all of it."""

import json
from copy import deepcopy
from functools import partial

import pytest
import torch
from diffusers import WanPipeline
from diffusers.loaders.single_file_utils import convert_wan_transformer_to_diffusers

from fastvmt_pl import lora as loras_of_models
from fastvmt_pl.backbones.families.wan import Wan
from fastvmt_pl.errors import UserError
from fastvmt_pl.lora import find_loras

add_lora, fuse_loras = (
    partial(each, names=Wan.layer_names) for each in (loras_of_models.add_lora, loras_of_models.fuse_loras)
)

ORIGINAL = {
    "blocks.0.attn1.to_q": "blocks.0.self_attn.q",
    "blocks.1.attn1.to_out.0": "blocks.1.self_attn.o",
    "blocks.0.attn2.to_k": "blocks.0.cross_attn.k",
    "blocks.1.attn2.to_v": "blocks.1.cross_attn.v",
    "blocks.0.ffn.net.0.proj": "blocks.0.ffn.0",
    "blocks.1.ffn.net.2": "blocks.1.ffn.2",
    "condition_embedder.time_embedder.linear_1": "time_embedding.0",
    "condition_embedder.text_embedder.linear_2": "text_embedding.2",
    "condition_embedder.time_proj": "time_projection.1",
    "patch_embedding": "patch_embedding",
    "proj_out": "head.head",
}
SPELLINGS = {
    "diffusers": lambda layer: f"transformer.{layer}",
    "bare": lambda layer: layer,
    "peft": lambda layer: f"base_model.model.{layer}",
    "original": lambda layer: f"diffusion_model.{ORIGINAL[layer]}",
    "bare original": lambda layer: ORIGINAL[layer],
    "checkpoint": lambda layer: f"model.diffusion_model.{ORIGINAL[layer]}",
    "kohya": lambda layer: "lora_unet_" + ORIGINAL[layer].replace(".", "_"),
    "kohya on diffusers": lambda layer: "lora_unet_" + layer.replace(".", "_"),
}
PARTS = [("lora_A", "lora_B"), ("lora_down", "lora_up"), ("lora.down", "lora.up"), ("lora_A.default", "lora_B.default")]


def pairs_for(transformer, layers=ORIGINAL, rank=3):
    """Random low-rank pairs by layer."""
    weights = dict(transformer.named_parameters())
    shapes = {layer: weights[f"{layer}.weight"].shape for layer in layers}
    return {
        layer: (torch.randn(rank, *shape[1:]), torch.randn(shape[0], rank, *(1 for _ in shape[2:])))
        for layer, shape in shapes.items()
    }


def tensors_of(pairs, spell=SPELLINGS["original"], parts=PARTS[0], alpha=None):
    tensors = {}
    for layer, pair in pairs.items():
        tensors |= {f"{spell(layer)}.{part}.weight": tensor for part, tensor in zip(parts, pair, strict=True)}
        if alpha is not None:
            tensors[f"{spell(layer)}.alpha"] = torch.tensor(alpha)
    return tensors


def product(down, up):
    return torch.tensordot(up.flatten(1), down, dims=1)


def check(transformer, loras, expected):
    """The expected parameters are changed as expected, and all others not at all."""
    before = {name: parameter.clone() for name, parameter in transformer.named_parameters()}
    fuse_loras(transformer, loras)
    for name, parameter in transformer.named_parameters():
        torch.testing.assert_close(parameter.data, before[name] + expected.get(name, 0), atol=1e-5, rtol=1e-5)
        assert torch.equal(parameter, before[name]) == (name not in expected), name
    return transformer


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("alpha", [None, 2.0])
def test_every_layer_is_changed_in_every_spelling(transformer, lora, spelling, alpha):
    pairs = pairs_for(transformer)
    path = lora(tensors_of(pairs, SPELLINGS[spelling], alpha=alpha))
    scale = 0.5 * (1 if alpha is None else alpha / 3)
    check(transformer, {path: 0.5}, {f"{layer}.weight": scale * product(*pair) for layer, pair in pairs.items()})


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("alpha", [6, 6.0])
def test_every_name_of_the_halves_is_read(transformer, lora, parts, alpha):
    pairs = pairs_for(transformer, ["blocks.0.attn1.to_q"])
    path = lora(tensors_of(pairs, parts=parts, alpha=alpha))
    check(transformer, {path: -1.0}, {"blocks.0.attn1.to_q.weight": -2 * product(*pairs["blocks.0.attn1.to_q"])})


def test_keys_with_and_without_prefixes_go_together(transformer, lora):
    pairs = pairs_for(transformer, list(ORIGINAL)[: len(SPELLINGS)])
    spelled = zip(pairs.items(), SPELLINGS.values(), strict=True)
    tensors = {key: x for (layer, pair), spell in spelled for key, x in tensors_of({layer: pair}, spell).items()}
    check(transformer, {lora(tensors): 1.0}, {f"{layer}.weight": product(*pair) for layer, pair in pairs.items()})


DIFFERENCES = {
    "diffusion_model.blocks.0.self_attn.norm_q.diff": "blocks.0.attn1.norm_q.weight",
    "diffusion_model.blocks.1.cross_attn.norm_k.diff": "blocks.1.attn2.norm_k.weight",
    "diffusion_model.blocks.1.norm3.diff": "blocks.1.norm2.weight",
    "diffusion_model.blocks.1.norm3.diff_b": "blocks.1.norm2.bias",
    "diffusion_model.blocks.0.self_attn.q.diff_b": "blocks.0.attn1.to_q.bias",
    "diffusion_model.blocks.0.ffn.2.diff": "blocks.0.ffn.net.2.weight",
    "diffusion_model.patch_embedding.diff": "patch_embedding.weight",
    "diffusion_model.patch_embedding.diff_b": "patch_embedding.bias",
    "diffusion_model.text_embedding.0.diff": "condition_embedder.text_embedder.linear_1.weight",
    "diffusion_model.time_embedding.2.diff_b": "condition_embedder.time_embedder.linear_2.bias",
    "diffusion_model.time_projection.1.diff_b": "condition_embedder.time_proj.bias",
    "diffusion_model.head.head.diff": "proj_out.weight",
    "diffusion_model.head.head.diff_b": "proj_out.bias",
    "diffusion_model.blocks.0.diff_m": "blocks.0.scale_shift_table",
    "diffusion_model.blocks.1.modulation.diff_m": "blocks.1.scale_shift_table",
    "diffusion_model.head.modulation.diff": "scale_shift_table",
    "lora_unet_blocks_0_norm3.diff": "blocks.0.norm2.weight",
    "transformer.blocks.0.norm2.diff_b": "blocks.0.norm2.bias",
}


def test_whole_differences_of_all_kinds_of_parameters_are_added(transformer, lora):
    parameters = dict(transformer.named_parameters())
    given = {key: torch.randn(parameters[name].shape) for key, name in DIFFERENCES.items()}
    check(transformer, {lora(given): 0.5}, {DIFFERENCES[key]: 0.5 * tensor for key, tensor in given.items()})


def test_a_head_may_be_named_by_its_difference_alone(transformer, lora):
    difference = torch.randn(1, 2, 24)
    check(transformer, {lora({"diffusion_model.head.diff_m": difference}): 1.0}, {"scale_shift_table": difference})


def test_alpha_scales_a_pair_and_not_the_difference_of_its_bias(transformer, lora):
    """As in the files that ComfyUI extracts: a bias has a difference beside the pair of its weight."""
    pairs, bias = pairs_for(transformer, ["blocks.0.attn1.to_q"]), torch.randn(24)
    path = lora(tensors_of(pairs, alpha=6.0) | {"diffusion_model.blocks.0.self_attn.q.diff_b": bias})
    expected = 2 * product(*pairs["blocks.0.attn1.to_q"])
    check(transformer, {path: 1.0}, {"blocks.0.attn1.to_q.weight": expected, "blocks.0.attn1.to_q.bias": bias})


def test_the_header_scales_each_layer_by_its_own_alpha_and_rank(transformer, lora):
    pairs = pairs_for(transformer, ["blocks.0.attn1.to_q", "blocks.1.attn1.to_out.0"], rank=4)
    pairs |= pairs_for(transformer, ["blocks.0.ffn.net.0.proj"], rank=2)
    settings = {
        "transformer.r": 4,
        "transformer.lora_alpha": 8,
        "transformer.rank_pattern": {"ffn.net.0.proj": 2},
        "transformer.alpha_pattern": {"^blocks.1.attn1.to_out.0": 3},
    }
    scales = {"blocks.0.attn1.to_q": 2.0, "blocks.1.attn1.to_out.0": 0.75, "blocks.0.ffn.net.0.proj": 4.0}
    path = lora(tensors_of(pairs, SPELLINGS["diffusers"]), settings)
    expected = {f"{layer}.weight": scale * product(*pairs[layer]) for layer, scale in scales.items()}
    check(transformer, {path: 1.0}, expected)


@pytest.mark.parametrize(("rslora", "scale"), [(False, 1.5), (True, 3.0)])
def test_settings_of_peft_are_found_beside_its_file(transformer, lora, tmp_path, rslora, scale):
    pairs = pairs_for(transformer, ["blocks.0.attn1.to_q"], rank=4)
    path = lora(tensors_of(pairs, SPELLINGS["peft"]), name="adapter_model.safetensors")
    settings = {"r": 4, "lora_alpha": 6, "use_rslora": rslora, "init_lora_weights": True}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    expected = scale * product(*pairs["blocks.0.attn1.to_q"])
    check(transformer, {path: 1.0}, {"blocks.0.attn1.to_q.weight": expected})


def test_an_alpha_that_is_given_twice_counts_once(transformer, lora):
    pairs = pairs_for(transformer, ["blocks.0.attn1.to_q"], rank=4)
    path = lora(tensors_of(pairs, alpha=8.0), {"r": 4, "lora_alpha": 8})
    expected = 2 * product(*pairs["blocks.0.attn1.to_q"])
    check(transformer, {path: 1.0}, {"blocks.0.attn1.to_q.weight": expected})


def test_a_lora_that_a_transformer_wrote_itself_is_applied_with_its_alpha(transformer, tmp_path):
    """``save_lora_adapter`` writes settings and keys without the prefix that a pipeline gives them."""
    adapted = deepcopy(transformer)
    add_lora(adapted, ("to_q",), rank=2, alpha=6.0)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_()
    adapted.save_lora_adapter(tmp_path)
    adapted.fuse_lora()
    adapted.unload_lora()
    fuse_loras(transformer, find_loras({str(tmp_path): 1.0})[0])
    for ours, theirs in zip(transformer.parameters(), adapted.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    "dtype", [torch.float8_e4m3fn, torch.float8_e5m2, torch.float16, torch.bfloat16, torch.float64]
)
def test_any_precision_of_a_file_is_merged_in_full_precision(transformer, lora, dtype):
    pairs = pairs_for(transformer, ["blocks.0.attn1.to_q", "patch_embedding"])
    pairs = {layer: tuple(tensor.to(dtype) for tensor in pair) for layer, pair in pairs.items()}
    path = lora(tensors_of(pairs, SPELLINGS["kohya"], PARTS[1], alpha=1.5))
    expected = {f"{layer}.weight": 0.5 * product(*(x.float() for x in pair)) for layer, pair in pairs.items()}
    check(transformer, {path: 1.0}, expected)


def test_a_half_precision_transformer_is_rounded_once(transformer, lora):
    transformer = transformer.to(torch.bfloat16)
    pairs = pairs_for(transformer, ["blocks.0.attn1.to_q"])
    first = lora(tensors_of(pairs), name="first.safetensors")
    second = lora(tensors_of({layer: (a, -0.5 * b) for layer, (a, b) in pairs.items()}), name="second.safetensors")
    weight = transformer.blocks[0].attn1.to_q.weight.float()
    down, up = pairs["blocks.0.attn1.to_q"]
    fuse_loras(transformer, {first: 1.0, second: 2.0})
    assert torch.equal(transformer.blocks[0].attn1.to_q.weight, (weight + up @ down - up @ down).bfloat16())


def by_diffusers(transformer, path, weight):
    tensors, metadata = WanPipeline.lora_state_dict(
        path.parent, weight_name=path.name, use_safetensors=True, local_files_only=True, return_lora_metadata=True
    )
    WanPipeline.load_lora_into_transformer(tensors, transformer, adapter_name="it", metadata=metadata)
    transformer.set_adapters(["it"], [weight])
    transformer.fuse_lora(adapter_names=["it"], safe_fusing=True)
    transformer.unload_lora()
    return dict(transformer.named_parameters())


BLOCKS = [
    f"blocks.{n}.{layer}"
    for n in range(2)
    for layer in (
        *(f"attn{a}.{side}" for a in (1, 2) for side in ("to_q", "to_k", "to_v", "to_out.0")),
        "ffn.net.0.proj",
        "ffn.net.2",
    )
]


def original(layer):
    return f"diffusion_model.{Wan.layer_names.original_name(layer)}"


def kohya(layer):
    return "lora_unet_" + Wan.layer_names.original_name(layer).replace(".", "_")


FORMS = {
    "diffusers": (lambda pairs: tensors_of(pairs, SPELLINGS["diffusers"]), None),
    "header": (
        lambda pairs: tensors_of(pairs, SPELLINGS["diffusers"]),
        {"transformer.r": 3, "transformer.lora_alpha": 5, "transformer.target_modules": BLOCKS},
    ),
    "original": (lambda pairs: tensors_of(pairs, original), None),
    "alpha": (lambda pairs: tensors_of(pairs, original, PARTS[1], alpha=1.7), None),
    "kohya": (lambda pairs: tensors_of(pairs, kohya, PARTS[1], alpha=5.0), None),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("weight", [1.0, 0.7])
def test_what_diffusers_applies_as_a_whole_has_the_same_effect_here(transformer, lora, form, weight):
    """To the bit, but where diffusers multiplies alpha into ``A`` first."""
    tensors, settings = FORMS[form]
    path = lora(tensors(pairs_for(transformer, BLOCKS)), settings)
    theirs = by_diffusers(deepcopy(transformer), path, weight)
    fuse_loras(transformer, {path: weight})
    for name, parameter in transformer.named_parameters():
        torch.testing.assert_close(parameter, theirs[name], atol=2e-6, rtol=2e-6)
        assert form in ("alpha", "kohya") or weight != 1 or torch.equal(parameter, theirs[name])


def test_layers_outside_the_blocks_agree_with_diffusers_too(transformer, lora):
    embedders = [f"condition_embedder.{kind}_embedder.linear_{n}" for kind in ("time", "text") for n in (1, 2)]
    layers = ["blocks.0.attn1.to_q", "condition_embedder.time_proj", *embedders]
    tensors = tensors_of(pairs_for(transformer, layers), original)
    parameters = dict(transformer.named_parameters())
    tensors |= {f"{original(layer)}.diff_b": torch.randn_like(parameters[f"{layer}.bias"]) for layer in layers}
    tensors["diffusion_model.head.head.diff"] = torch.randn_like(parameters["proj_out.weight"])
    tensors["diffusion_model.head.head.diff_b"] = torch.randn_like(parameters["proj_out.bias"])
    path = lora(tensors)
    theirs = by_diffusers(deepcopy(transformer), path, 1.0)
    fuse_loras(transformer, {path: 1.0})
    for name, parameter in transformer.named_parameters():
        torch.testing.assert_close(parameter, theirs[name], atol=2e-6, rtol=2e-6)


def test_original_names_are_those_that_diffusers_converts(transformer):
    names = [name for name, _ in transformer.named_parameters()]
    suffixes = {name: name.rpartition(".")[2] for name in names if not name.endswith("scale_shift_table")}
    originals = {
        name: f"{Wan.layer_names.original_name(name.removesuffix(f'.{suffixes[name]}'))}.{suffixes[name]}"
        if name in suffixes
        else Wan.layer_names.original_name(name)
        for name in names
    }
    converted = convert_wan_transformer_to_diffusers({spelled: name for name, spelled in originals.items()})
    assert converted == {name: name for name in names}


def test_weights_of_a_file_that_is_given_twice_add_up(transformer, lora, tmp_path):
    pairs = pairs_for(transformer, ["blocks.0.attn1.to_q"])
    path = lora(tensors_of(pairs), name="pytorch_lora_weights.safetensors")
    assert find_loras({str(tmp_path): 0.5, str(path): 0.75}) == ({path: 1.25},)
    with pytest.raises(UserError, match="nan"):
        find_loras({str(path): float("nan")})


def test_only_what_changes_is_replaced(transformer, lora):
    """Memory stays bounded: there is never a copy of more than one layer."""
    places = {name: parameter.data_ptr() for name, parameter in transformer.named_parameters()}
    fuse_loras(transformer, {lora(tensors_of(pairs_for(transformer, ["proj_out"]))): 1.0})
    moved = {name for name, parameter in transformer.named_parameters() if parameter.data_ptr() != places[name]}
    assert moved == {"proj_out.weight"}
