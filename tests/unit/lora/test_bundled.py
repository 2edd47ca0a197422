"""The LoRA that ships with wan-tiny."""

import torch

from fastvmt_pl.backbones import DiffusersBackbone
from fastvmt_pl.lora import find_lora
from fastvmt_pl.method.finish import Finish
from fastvmt_pl.method.sampling import denoise, flow_matching_sigmas, guided_velocity, job_noise
from fastvmt_pl.runs.options import parse_loras
from fastvmt_pl.toy.toy_world import NUM_FRAMES, SIZE

NAME = "wan-tiny-few-steps"
PROMPTS = ["a red circle on a gray background", "a white cross on a navy background"]


@torch.no_grad()
def test_a_finish_with_it_ends_nearer_to_many_steps_with_a_guidance_scale():
    plain, finish, first = DiffusersBackbone(), Finish(parse_loras(NAME), num_steps=4), 4
    condition, negative = plain.embed_prompts(PROMPTS), plain.embed_prompts([""]).expand(2)

    def denoised(backbone, latents, sigmas, steps, scale):
        for step in steps:
            timestep = 1000 * float(sigmas[step])
            velocity = guided_velocity(backbone, latents, timestep, condition, negative, scale)
            latents = denoise(velocity, latents, sigmas, step)
        return latents

    many = flow_matching_sigmas(12, 3.0)
    noise = job_noise(plain.latent_shape(NUM_FRAMES, SIZE, SIZE), [0, 1])
    start = denoised(plain, noise, many, range(first), 4.0)
    wanted = denoised(plain, start, many, range(first, 12), 4.0)
    few = finish.sigmas(float(many[first]), 3.0)
    errors = []
    for backbone in (plain, DiffusersBackbone(loras=dict(finish.loras))):
        found = denoised(backbone, start, few, range(4), finish.guidance_scale)
        errors.append((found - wanted).flatten(1).norm(dim=1) / wanted.flatten(1).norm(dim=1))
    assert (errors[1] < 0.9 * errors[0]).all()
    assert errors[1].max() < 0.25


def test_it_is_small_and_is_named_like_a_file(tmp_path, monkeypatch):
    assert find_lora(NAME).stat().st_size < 1_000_000
    assert parse_loras([f"{NAME}:0.5", NAME]) == {NAME: 1.5}
    monkeypatch.chdir(tmp_path)
    (tmp_path / NAME).mkdir()
    own = tmp_path / NAME / "pytorch_lora_weights.safetensors"
    own.touch()
    assert find_lora(NAME).absolute() == own
