import json
import re

import pytest
import torch
from diffusers import WanTransformer3DModel
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from fastvmt_pl.backbones.folder import BUNDLED
from fastvmt_pl.lora import DIFFUSERS_FILE, ORIGINAL_FILE, LoraError, add_lora, lora_weights, verify_lora, write_lora

MODEL = BUNDLED["wan-tiny"]
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
@pytest.mark.parametrize(("rank", "alpha"), [(4, None), (4, 16.0), (8, 2.0)])
def test_both_files_do_in_a_stock_pipeline_what_the_adapter_does(tmp_path, dtype, rank, alpha):
    transformer = with_lora(dtype, EVERYWHERE, rank=rank, alpha=alpha)
    write_lora(transformer, tmp_path)
    deviations = verify_lora(transformer, tmp_path, MODEL)
    assert set(deviations) == {DIFFUSERS_FILE, ORIGINAL_FILE} == {path.name for path in tmp_path.iterdir()}
    assert max(deviations.values()) < (1e-4 if dtype == torch.float32 else 0.05)


@pytest.mark.parametrize("name", [DIFFUSERS_FILE, ORIGINAL_FILE])
def test_a_file_that_does_something_else_fails_loudly(tmp_path, name):
    transformer = with_lora(rank=4, alpha=8.0)
    write_lora(transformer, tmp_path)
    with safe_open(tmp_path / name, "pt") as file:
        metadata = file.metadata()
    weights = load_file(tmp_path / name)
    weights[next(key for key in weights if key.endswith("lora_B.weight"))] += 0.5
    save_file(weights, tmp_path / name, metadata)
    with pytest.raises(LoraError, match=name):
        verify_lora(transformer, tmp_path, MODEL)


def test_alpha_is_in_the_header_of_one_file_and_in_tensors_of_the_other(tmp_path):
    """Together they would scale twice."""
    write_lora(with_lora(rank=4, alpha=8.0), tmp_path)
    with safe_open(tmp_path / DIFFUSERS_FILE, "pt") as file:
        settings = json.loads(file.metadata()["lora_adapter_metadata"])
        assert not any("alpha" in name for name in file.keys())  # noqa: SIM118 - no mapping
    assert (settings["transformer.r"], settings["transformer.lora_alpha"]) == (4, 8.0)
    with safe_open(tmp_path / ORIGINAL_FILE, "pt") as file:
        assert "lora_adapter_metadata" not in (file.metadata() or {})
        alphas = [file.get_tensor(name) for name in file.keys() if name.endswith(".alpha")]  # noqa: SIM118
    assert len(alphas) == 6 * 2 * 4
    assert all(alpha == 8 for alpha in alphas)


def test_the_second_file_has_the_names_that_comfyui_looks_for(tmp_path):
    """Its rules are in ``comfy/lora.py`` and ``comfy/weight_adapter/lora.py``.

    It takes each weight of the model in the original naming, ``diffusion_model.blocks.0.self_attn.q.weight``, drops
    ``.weight``, and looks for ``X.lora_A.weight``, ``X.lora_B.weight`` and ``X.alpha``. It scales by alpha over the
    first axis of A, and by 1 if there is no alpha.
    """
    write_lora(with_lora(targets=EVERYWHERE, rank=4), tmp_path)
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
