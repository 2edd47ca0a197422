"""Files that cannot be applied as a whole are refused, by their name and that of the layer, and change nothing."""

import shutil
from functools import partial

import pytest
import torch
from safetensors.torch import save_file

from fastvmt_pl import lora as loras_of_models
from fastvmt_pl.backbones import DiffusersBackbone
from fastvmt_pl.backbones.families.wan import Wan
from fastvmt_pl.backbones.model_folder import BUNDLED
from fastvmt_pl.errors import UserError
from fastvmt_pl.lora import DIFFUSERS_FILE, find_lora

fuse_loras = partial(loras_of_models.fuse_loras, names=Wan.layer_names)

LAYER = "diffusion_model.blocks.0.self_attn.q"
PAIR = {f"{LAYER}.lora_A.weight": torch.ones(2, 24), f"{LAYER}.lora_B.weight": torch.ones(24, 2)}
BROKEN = {
    "text encoder of kohya": (
        {**PAIR, "lora_te1_text_model_encoder_layers_0_mlp_fc1.alpha": 1.0},
        "lora_te1_text_model",
    ),
    "text encoder": ({**PAIR, "text_encoder.encoder.block.0.lora_A.weight": torch.ones(2, 4)}, "text_encoder.encoder"),
    "second expert": ({**PAIR, "transformer_2.blocks.0.attn1.to_q.alpha": 1.0}, "transformer_2.blocks.0"),
    "image keys": ({**PAIR, "diffusion_model.blocks.0.cross_attn.k_img.alpha": 1.0}, "blocks.0.cross_attn.k_img.alpha"),
    "image keys of kohya": (
        {**PAIR, "lora_unet_blocks_0_cross_attn_v_img.alpha": 1.0},
        "lora_unet_blocks_0_cross_attn_v_img",
    ),
    "image norm": ({**PAIR, "diffusion_model.blocks.0.cross_attn.norm_k_img.diff": torch.ones(24)}, "norm_k_img.diff"),
    "image embedding": ({**PAIR, "diffusion_model.img_emb.proj.1.diff_b": torch.ones(24)}, "img_emb.proj.1"),
    "too many blocks": ({**PAIR, "diffusion_model.blocks.2.ffn.0.alpha": 1.0}, r"blocks.2.ffn.0.* 2 blocks"),
    "too many blocks of kohya": ({**PAIR, "lora_unet_blocks_12_ffn_0.alpha": 1.0}, r"blocks_12_ffn.* 2 blocks"),
    "layer of no name": ({**PAIR, "diffusion_model.blocks.0.self_attn.qkv.alpha": 1.0}, "self_attn.qkv"),
    "other prefix": ({f"unet.{key}": x for key, x in PAIR.items()}, "unet.diffusion_model"),
    "no key of a LoRA": ({**PAIR, f"{LAYER}.weight": torch.ones(24, 24)}, f"{LAYER}.weight"),
    "scale of fp8": ({**PAIR, f"{LAYER}.scale_weight": 1.0}, f"{LAYER}.scale_weight"),
    "DoRA": ({**PAIR, f"{LAYER}.dora_scale": torch.ones(24)}, "dora_scale"),
    "DoRA of peft": ({**PAIR, f"{LAYER}.lora_magnitude_vector.weight": torch.ones(24)}, "lora_magnitude_vector"),
    "LoKr": ({f"{LAYER}.lokr_w1": torch.ones(2, 2)}, "lokr_w1"),
    "LoHa": ({f"{LAYER}.hada_w1_a": torch.ones(2, 2)}, "hada_w1_a"),
    "Tucker": ({**PAIR, f"{LAYER}.lora_mid.weight": torch.ones(2, 2)}, "lora_mid"),
    "empty": ({}, "bad"),
    "no lora_B": ({f"{LAYER}.lora_A.weight": torch.ones(2, 24)}, "lora_B"),
    "no lora_A": ({f"{LAYER}.lora_B.weight": torch.ones(24, 2)}, "lora_A"),
    "alpha alone": ({f"{LAYER}.alpha": 1.0}, f"{LAYER}.alpha"),
    "alpha beside a difference": ({f"{LAYER}.alpha": 1.0, f"{LAYER}.diff": torch.ones(24, 24)}, f"{LAYER}.alpha"),
    "bias of a pair alone": ({f"{LAYER}.lora_B.bias": torch.ones(24)}, "lora_B.bias"),
    "two namings": (
        {**PAIR, "transformer.blocks.0.attn1.to_q.lora_A.weight": torch.ones(2, 24)},
        "transformer.blocks.0",
    ),
    "two adapters": ({**PAIR, f"{LAYER}.lora_A.other.weight": torch.ones(2, 24)}, "lora_A.other"),
    "pair and difference": ({**PAIR, f"{LAYER}.diff": torch.ones(24, 24)}, f"{LAYER}.diff"),
    "two biases": (
        {**PAIR, f"{LAYER}.lora_B.bias": torch.ones(24), f"{LAYER}.diff_b": torch.ones(24)},
        f"{LAYER}.diff_b",
    ),
    "ranks": ({**PAIR, f"{LAYER}.lora_A.weight": torch.ones(3, 24)}, r"\(3, 24\).*\(24, 2\)"),
    "no rank": (
        {f"{LAYER}.lora_A.weight": torch.ones(0, 24), f"{LAYER}.lora_B.weight": torch.ones(24, 0)},
        r"\(0, 24\)",
    ),
    "one axis": ({**PAIR, f"{LAYER}.lora_A.weight": torch.ones(24)}, r"\(24,\)"),
    "inputs": ({**PAIR, f"{LAYER}.lora_A.weight": torch.ones(2, 25)}, r"self_attn.q.*\(2, 25\).*\(24, 24\)"),
    "outputs": ({**PAIR, f"{LAYER}.lora_B.weight": torch.ones(7, 2)}, r"self_attn.q.*\(7, 2\).*\(24, 24\)"),
    "difference": ({f"{LAYER}.diff": torch.ones(24, 9)}, r"self_attn.q.diff.*\(24, 9\).*\(24, 24\)"),
    "kernel": (
        {"diffusion_model.patch_embedding.diff": torch.ones(24, 3, 2, 2)},
        r"\(24, 3, 2, 2\).*\(24, 3, 1, 2, 2\)",
    ),
    "bias": ({f"{LAYER}.diff_b": torch.ones(9)}, r"self_attn.q.diff_b.*\(9,\).*\(24,\)"),
    "no such bias": ({"diffusion_model.blocks.0.self_attn.norm_q.diff_b": torch.ones(24)}, "norm_q.diff_b"),
    "modulation": ({"diffusion_model.blocks.0.diff_m": torch.ones(6, 24)}, r"diff_m.*\(6, 24\).*\(1, 6, 24\)"),
    "infinite": ({**PAIR, f"{LAYER}.lora_B.weight": torch.full((24, 2), torch.inf)}, "lora_B"),
    "NaN of fp8": ({f"{LAYER}.diff": torch.full((24, 24), torch.nan).to(torch.float8_e4m3fn)}, f"{LAYER}.diff"),
    "NaN alpha": ({**PAIR, f"{LAYER}.alpha": torch.nan}, f"{LAYER}.alpha"),
    "many alphas": ({**PAIR, f"{LAYER}.alpha": torch.ones(2)}, f"{LAYER}.alpha"),
    "integers": ({f"{LAYER}.diff": torch.ones(24, 24, dtype=torch.int8)}, "I8"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_cannot_be_applied_is_refused_by_name(transformer, lora, kind):
    tensors, named = BROKEN[kind]
    good, bad = lora(PAIR, name="good.safetensors"), lora(tensors, name="bad.safetensors")
    before = [parameter.clone() for parameter in transformer.parameters()]
    with pytest.raises(UserError, match=named) as error:
        fuse_loras(transformer, {good: 1.0, bad: 1.0})
    assert str(bad) in str(error.value)
    assert all(torch.equal(old, new) for old, new in zip(before, transformer.parameters(), strict=True))


SETTINGS = {
    "rank": ({"r": 4, "lora_alpha": 4}, "rank 2"),
    "rank of the layer": ({"r": 2, "lora_alpha": 4, "rank_pattern": {"attn1.to_q": 8}}, "8"),
    "no alpha": ({"r": 2}, "lora_alpha"),
    "alpha is text": ({"r": 2, "lora_alpha": "4"}, "lora_alpha"),
    "no mapping": ([2, 4], "lora_alpha"),
    "DoRA": ({"r": 2, "lora_alpha": 4, "use_dora": True}, "use_dora"),
    "PiSSA": ({"r": 2, "lora_alpha": 4, "init_lora_weights": "pissa_niter_4"}, "pissa_niter_4"),
}


@pytest.mark.parametrize("kind", SETTINGS)
def test_settings_that_do_not_fit_are_refused(transformer, lora, kind):
    settings, named = SETTINGS[kind]
    path = lora(PAIR, settings)
    with pytest.raises(UserError, match=named) as error:
        fuse_loras(transformer, {path: 1.0})
    assert str(path) in str(error.value)


def test_two_alphas_that_differ_are_refused(transformer, lora):
    with pytest.raises(UserError, match=f"{LAYER}.alpha"):
        fuse_loras(transformer, {lora({**PAIR, f"{LAYER}.alpha": 3.0}, {"r": 2, "lora_alpha": 4}): 1.0})


def test_a_file_of_peft_needs_its_settings(transformer, lora):
    fuse_loras(transformer, {lora(PAIR, name="adapter_model.safetensors"): 1.0})  # whose keys are not peft's
    tensors = {key.replace(LAYER, "base_model.model.blocks.0.attn1.to_q"): tensor for key, tensor in PAIR.items()}
    path = lora(tensors, name="adapter_model.safetensors")
    with pytest.raises(UserError, match=r"adapter_config\.json"):
        fuse_loras(transformer, {path: 1.0})


def test_a_damaged_file_or_header_is_refused(transformer, lora, tmp_path):
    path = lora(PAIR)
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(UserError, match=r"lora\.safetensors"):
        fuse_loras(transformer, {path: 1.0})
    save_file(PAIR, path, {"lora_adapter_metadata": "{"})
    with pytest.raises(UserError, match="lora_adapter_metadata"):
        fuse_loras(transformer, {path: 1.0})


def test_an_effect_beyond_half_precision_is_refused(transformer, lora):
    path = lora({f"{LAYER}.diff": torch.full((24, 24), 1e4)})
    with pytest.raises(UserError, match=f"{LAYER}.diff.*float16"):
        fuse_loras(transformer.to(torch.float16), {path: 10.0})


def test_a_backbone_refuses_before_it_reads_weights(lora, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(BUNDLED["wan-tiny"], model, ignore=shutil.ignore_patterns("*.safetensors"))
    for part in ("transformer", "vae", "text_encoder"):
        (model / part / "model.safetensors").touch()  # reading any would fail
    good = {f"{LAYER}.lora_A.weight": torch.ones(2, 144), f"{LAYER}.lora_B.weight": torch.ones(144, 2)}
    DiffusersBackbone(str(model), loras={str(lora(good)): 1.0})
    with pytest.raises(UserError, match=rf"other.safetensors.*{LAYER}.*\(24, 2\).*\(144, 144\)"):
        DiffusersBackbone(str(model), loras={str(lora(PAIR, name="other.safetensors")): 1.0})


@pytest.mark.parametrize("name", ["missing", "missing.safetensors", "", "lora.bin"])
def test_what_is_no_lora_is_refused(tmp_path, name):
    (tmp_path / "lora.bin").touch()
    with pytest.raises(UserError, match=DIFFUSERS_FILE):
        find_lora(tmp_path / name)
