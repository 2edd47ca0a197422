from pathlib import Path

import pytest
import torch

from fastvmt_pl.backbones import DiffusersBackbone

LAYER = "diffusion_model.blocks.0.self_attn.q"


@pytest.mark.parametrize("command", [("sample", "a red circle"), ("transfer", "CLIP", "a red circle")])
@pytest.mark.usefixtures("no_weights")
def test_a_lora_of_another_model_is_refused_before_any_weights_are_read(command, refused, clip, write_lora):
    words = [clip if word == "CLIP" else word for word in command]
    said = refused(*words, "--loras", f"{write_lora('other.safetensors', inputs=96)}:0.5", "--output", "out")
    assert all(named in said for named in ("other.safetensors", LAYER, "(2, 96)", "(144, 144)"))


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize("words", [["--output-fps=0"], ["--output-fps=-1"], ["--seed=-1"], ["--seed", str(2**70)]])
def test_a_sample_that_cannot_be_is_refused_before_any_weights_are_read(refused, words):
    name = words[0].split("=")[0].removeprefix("--").replace("-", "_")
    assert name in refused("sample", "a red circle", *words, "--output", "out")
    assert not Path("out").exists()


def test_a_file_that_is_given_twice_counts_twice(tmp_path, write_lora):
    write_lora("lora.safetensors")
    (tmp_path / "link.safetensors").symlink_to("lora.safetensors")
    plain = DiffusersBackbone().transformer.blocks[0].attn1.to_q.weight
    for loras in ({"lora.safetensors": 0.5, f"{tmp_path}/lora.safetensors": 0.25}, {"lora.safetensors": 0.75}):
        fused = DiffusersBackbone(loras=loras).transformer.blocks[0].attn1.to_q.weight
        torch.testing.assert_close(fused, plain + 1.5)
    twice = DiffusersBackbone(loras={"lora.safetensors": 0.5, "link.safetensors": 0.25}).transformer
    torch.testing.assert_close(twice.blocks[0].attn1.to_q.weight, plain + 1.5)
