import json
import re
from functools import partial

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fastvmt_pl import lora
from fastvmt_pl.backbones.families.finding import family_of
from fastvmt_pl.backbones.model_folder import BUNDLED
from fastvmt_pl.lora import (
    DIFFUSERS_FILE,
    ORIGINAL_FILE,
    LoraError,
    find_lora,
    lora_weights,
    read_adapter,
    remove_lora,
    verify_lora,
    without_lora,
    write_lora,
)

MODEL, FAMILY = BUNDLED["wan-tiny"], family_of("wan-tiny")
add_lora, fuse_loras = (partial(each, names=FAMILY.layer_names) for each in (lora.add_lora, lora.fuse_loras))
ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
EVERYWHERE = (*ATTENTION, "ffn.net.0.proj", "ffn.net.2")


def with_lora(dtype=torch.float32, targets=ATTENTION, **settings):
    """A transformer with an adapter that does something, as after training."""
    transformer = WanTransformer3DModel.from_pretrained(MODEL / "transformer", torch_dtype=dtype).requires_grad_(False)
    add_lora(transformer, targets, **settings)
    with torch.no_grad():
        for name, parameter in transformer.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    return transformer


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rank", "alpha"), [(4, None), (4, 16.0), (8, 2.0), (16, 24.0)])
def test_both_files_do_in_a_stock_pipeline_what_the_adapter_does(tmp_path, dtype, rank, alpha):
    transformer = with_lora(dtype, EVERYWHERE, rank=rank, alpha=alpha)
    adapter = read_adapter(transformer)
    write_lora(adapter, tmp_path, FAMILY)
    deviations = verify_lora(adapter, tmp_path, MODEL, FAMILY)
    assert set(deviations) == {DIFFUSERS_FILE, ORIGINAL_FILE} == {path.name for path in tmp_path.iterdir()}
    assert max(deviations.values()) < 1e-4


@pytest.mark.parametrize("name", [DIFFUSERS_FILE, ORIGINAL_FILE])
def test_a_file_that_does_something_else_fails_loudly(tmp_path, name):
    adapter = read_adapter(with_lora(rank=4, alpha=8.0))
    write_lora(adapter, tmp_path, FAMILY)
    with safe_open(tmp_path / name, "pt") as file:
        metadata = file.metadata()
    weights = load_file(tmp_path / name)
    weights[next(key for key in weights if key.endswith("lora_B.weight"))] += 0.5
    save_file(weights, tmp_path / name, metadata)
    with pytest.raises(LoraError, match=name):
        verify_lora(adapter, tmp_path, MODEL, FAMILY)


def test_alpha_is_in_the_header_of_one_file_and_in_tensors_of_the_other(tmp_path):
    """Together they would scale twice."""
    write_lora(read_adapter(with_lora(rank=4, alpha=8.0)), tmp_path, FAMILY)
    with safe_open(tmp_path / DIFFUSERS_FILE, "pt") as file:
        settings = json.loads(file.metadata()["lora_adapter_metadata"])
        assert not any("alpha" in name for name in file.keys())  # noqa: SIM118 - no mapping
    assert (settings["transformer.r"], settings["transformer.lora_alpha"]) == (4, 8.0)
    with safe_open(tmp_path / ORIGINAL_FILE, "pt") as file:
        assert "lora_adapter_metadata" not in (file.metadata() or {})
        alphas = [file.get_tensor(name) for name in file.keys() if name.endswith(".alpha")]  # noqa: SIM118
    assert len(alphas) == 6 * 2 * 4
    assert all(alpha == 8 for alpha in alphas)


def test_the_same_adapter_is_the_same_bytes(tmp_path):
    adapter, written = read_adapter(with_lora()), set()
    for number in range(8):  # in each, safetensors has another order
        write_lora(adapter, tmp_path / str(number), FAMILY)
        written.add(b"".join((tmp_path / str(number) / file).read_bytes() for file in (DIFFUSERS_FILE, ORIGINAL_FILE)))
    assert len(written) == 1
    with safe_open(tmp_path / "0" / DIFFUSERS_FILE, "pt") as file:
        layers = json.loads(file.metadata()["lora_adapter_metadata"])["transformer.target_modules"]
    assert layers == sorted(layers)  # peft's is a set, whose order differs between processes


def test_the_second_file_has_the_names_that_comfyui_looks_for(tmp_path):
    """Its rules are in ``comfy/lora.py`` and ``comfy/weight_adapter/lora.py``.

    It takes each weight of the model in the original naming, ``diffusion_model.blocks.0.self_attn.q.weight``, drops
    ``.weight``, and looks for ``X.lora_A.weight``, ``X.lora_B.weight`` and ``X.alpha``. It scales by alpha over the
    first axis of A, and by 1 if there is no alpha.
    """
    write_lora(read_adapter(with_lora(targets=EVERYWHERE, rank=4)), tmp_path, FAMILY)
    layer = r"diffusion_model\.blocks\.\d+\.(self_attn|cross_attn)\.[qkvo]|diffusion_model\.blocks\.\d+\.ffn\.[02]"
    weights = load_file(tmp_path / ORIGINAL_FILE)
    layers = {name.removesuffix(".alpha") for name in weights if name.endswith(".alpha")}
    assert len(layers) == 6 * (2 * 4 + 2)
    assert all(re.fullmatch(layer, name) for name in layers)
    assert set(weights) == {f"{name}.{end}" for name in layers for end in ("lora_A.weight", "lora_B.weight", "alpha")}
    assert all(weights[f"{name}.lora_A.weight"].shape[0] == 4 for name in layers)


def test_a_new_adapter_changes_nothing_and_alone_is_trainable():
    plain = WanTransformer3DModel.from_pretrained(MODEL / "transformer").requires_grad_(False)
    latents, text = torch.randn(1, 8, 3, 12, 12), torch.randn(1, 16, 64)
    before = plain(latents, torch.tensor([500.0]), text, return_dict=False)[0]
    add_lora(plain, ATTENTION, rank=4)
    after = plain(latents, torch.tensor([500.0]), text, return_dict=False)[0]
    assert torch.equal(before, after)
    trainable = [name for name, parameter in plain.named_parameters() if parameter.requires_grad]
    assert len(trainable) == len(lora_weights(plain)) == 6 * 2 * 4 * 2
    assert all("lora_" in name for name in trainable)


def output_of(transformer):
    draw = torch.Generator().manual_seed(1)
    latents, text = torch.randn(1, 8, 3, 12, 12, generator=draw), torch.randn(1, 16, 64, generator=draw)
    with torch.no_grad():
        return transformer(latents, torch.tensor([500.0]), text, return_dict=False)[0]


def plain():
    return WanTransformer3DModel.from_pretrained(MODEL / "transformer").requires_grad_(False)


@pytest.mark.parametrize("name", [DIFFUSERS_FILE, ORIGINAL_FILE])
def test_a_fused_lora_does_what_the_adapter_does_at_any_weight(tmp_path, name):
    transformer = with_lora(rank=4, alpha=8.0)
    write_lora(read_adapter(transformer), tmp_path, FAMILY)
    fused = plain()
    fuse_loras(fused, {tmp_path / name: 1.0})
    assert not any("lora" in parameter for parameter, _ in fused.named_parameters())
    torch.testing.assert_close(output_of(fused), output_of(transformer), atol=1e-4, rtol=1e-4)
    transformer.set_adapters("default", 0.25)
    quarter = plain()
    fuse_loras(quarter, {tmp_path / name: 0.25})
    torch.testing.assert_close(output_of(quarter), output_of(transformer), atol=1e-4, rtol=1e-4)


def test_several_loras_add_up(tmp_path):
    for number in range(2):
        write_lora(read_adapter(with_lora(rank=4 + number)), tmp_path / str(number), FAMILY)
    files = [find_lora(tmp_path / str(number)) for number in range(2)]
    at_once, in_turn = plain(), plain()
    fuse_loras(at_once, {files[0]: 0.5, files[1]: -1.0})
    fuse_loras(in_turn, {files[0]: 0.5})
    fuse_loras(in_turn, {files[1]: -1.0})
    torch.testing.assert_close(output_of(at_once), output_of(in_turn), atol=1e-4, rtol=1e-4)


def test_an_adapter_can_be_turned_off_and_taken_off():
    transformer, before = with_lora(), output_of(plain())
    adapted = output_of(transformer)
    with without_lora(transformer):
        assert torch.equal(output_of(transformer), before)
    assert torch.equal(output_of(transformer), adapted)
    remove_lora(transformer)
    assert torch.equal(output_of(transformer), before)
    with without_lora(transformer):
        assert torch.equal(output_of(transformer), before)


def test_an_adapter_is_trained_in_full_precision():
    parameters = dict(with_lora(torch.bfloat16).named_parameters())
    assert {p.dtype for p in parameters.values() if p.requires_grad} == {torch.float32}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, "rank is 0"),
        ({"alpha": -1.0}, "alpha -1"),
        ({"dropout": 1.0}, "dropout 1"),
        ({"targets": ("to_q", "to_z")}, r"\['to_z'\]"),
        ({"targets": ("proj_out",)}, "proj_out"),
        ({"targets": ()}, "to_q"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        with_lora(**settings)
