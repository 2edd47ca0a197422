from pathlib import Path

import pytest
import torch
import yaml

from fastvmt_pl.backbones import DiffusersBackbone

PROMPT = "a red circle on a gray background"
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


def test_a_finish_is_a_setting_and_its_lora_part_of_the_run(succeed, refused, clip, write_lora):
    write_lora("few.safetensors", 0.1)
    words = ("transfer", clip, PROMPT, "--num-frames=5", "--num-steps=4", "--num-guided-steps=1", "--no-baseline")
    finish = ("--finish-loras=few.safetensors:0.5", "--finish-steps=2", "--finish-shift=5", "--output", "out")
    succeed(*words, *finish)
    config = yaml.safe_load(Path("out/config.yaml").read_text())["model"]["finish"]
    again = ("--finish-loras=few.safetensors", "--finish-loras=few.safetensors:0.25")
    succeed(*words, *again, "--output", "again")
    both = yaml.safe_load(Path("again/config.yaml").read_text())["model"]["finish"]["loras"]
    assert both == {"few.safetensors": 1.25}
    assert config == {"loras": {"few.safetensors": 0.5}, "num_steps": 2, "guidance_scale": 1.0, "shift": 5.0}
    Path("out/metrics.json").unlink()
    write_lora("few.safetensors", 0.2)
    assert "model.finish.loras" in refused(*words, *finish)
    assert "finish_loras" in refused(*words, "--finish-steps=2", "--output", "other")


def test_a_file_that_is_given_twice_counts_twice(tmp_path, write_lora):
    write_lora("lora.safetensors")
    (tmp_path / "link.safetensors").symlink_to("lora.safetensors")
    plain = DiffusersBackbone().transformer.blocks[0].attn1.to_q.weight
    for loras in ({"lora.safetensors": 0.5, f"{tmp_path}/lora.safetensors": 0.25}, {"lora.safetensors": 0.75}):
        fused = DiffusersBackbone(loras=loras).transformer.blocks[0].attn1.to_q.weight
        torch.testing.assert_close(fused, plain + 1.5)
    twice = DiffusersBackbone(loras={"lora.safetensors": 0.5, "link.safetensors": 0.25}).transformer
    torch.testing.assert_close(twice.blocks[0].attn1.to_q.weight, plain + 1.5)
