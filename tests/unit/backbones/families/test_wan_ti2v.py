"""Wan 2.2 TI2V against its stock pipelines, on a tiny model of its own classes with random weights."""

import pytest
import torch
from diffusers import WanImageToVideoPipeline, WanPipeline
from torch.nn import functional

from fastvmt_pl.backbones import Request, load_backbone
from fastvmt_pl.backbones.condition import GIVEN
from fastvmt_pl.method.sampling import flow_matching_sigmas, job_noise, sample

VIDEO = (9, 64, 96)
TIMESTEP = torch.tensor([700.0, 300.0])
PROMPT, NEGATIVE = "a red circle on a gray background", "a cross"


@pytest.fixture(scope="module")
def backbone(ti2v):
    return load_backbone(str(ti2v))


@pytest.fixture
def image():
    return torch.rand(1, 3, 1, *VIDEO[1:], generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.fixture
def latents(backbone):
    return job_noise(backbone.latent_shape(*VIDEO), [3, 4]).requires_grad_()


@pytest.fixture
def condition(backbone, image):
    return backbone.embed_prompts([PROMPT, ""]).joined(backbone.embed_images(image, VIDEO[0]).expand(2))


def stock(kind, ti2v, backbone, **options):
    pipeline = kind.from_pretrained(ti2v)
    pipeline.set_progress_bar_config(disable=True)
    num_frames, height, width = VIDEO
    made = pipeline(
        prompt=PROMPT,
        negative_prompt=NEGATIVE,
        latents=job_noise(backbone.latent_shape(*VIDEO), [5]),
        height=height,
        width=width,
        num_frames=num_frames,
        num_inference_steps=5,
        output_type="latent",
        **options,
    ).frames
    return made, pipeline.scheduler.sigmas


def sampled(backbone, guidance_scale, sigmas, image=None):
    return sample(backbone, [PROMPT], [5], backbone.latent_shape(*VIDEO), sigmas, guidance_scale, NEGATIVE, image)


@pytest.mark.parametrize("guidance_scale", [1.0, 5.0])
def test_unguided_sampling_of_text_gives_the_stock_pipelines_latents(ti2v, backbone, guidance_scale):
    expected, sigmas = stock(WanPipeline, ti2v, backbone, guidance_scale=guidance_scale)
    found = sampled(backbone, guidance_scale, sigmas)
    assert (found - expected).norm() < 1e-4 * expected.norm()


@pytest.mark.parametrize("guidance_scale", [1.0, 5.0])
def test_unguided_sampling_from_an_image_gives_the_stock_pipelines_latents(ti2v, backbone, image, guidance_scale):
    unit = (image[:, :, 0] + 1) / 2  # a tensor from 0 to 1 is an image to diffusers
    expected, sigmas = stock(WanImageToVideoPipeline, ti2v, backbone, guidance_scale=guidance_scale, image=unit)
    found = sampled(backbone, guidance_scale, sigmas, image)
    assert (found - expected).norm() < 1e-4 * expected.norm()
    assert (found - sampled(backbone, guidance_scale, sigmas)).norm() > 0.01 * found.norm()


def test_the_first_latent_frame_is_that_of_the_image_to_the_bit(backbone, image):
    found = sampled(backbone, 5.0, flow_matching_sigmas(5, 5.0), image)
    assert torch.equal(found[:, :, :1], backbone.encode(image))


def test_rotated_queries_and_keys_are_those_of_the_kernel_in_a_whole_pass(backbone, latents, condition, monkeypatch):
    calls, kernel = [], functional.scaled_dot_product_attention

    def watched(query, key, *args, **kwargs):
        calls.append((query, key))
        return kernel(query, key, *args, **kwargs)

    with torch.no_grad(), monkeypatch.context() as patch:
        patch.setattr(functional, "scaled_dot_product_attention", watched)
        backbone.velocity(latents, TIMESTEP, condition)
    found = backbone.capture(latents, TIMESTEP, condition, Request(frozenset({2})))
    own = [pair for pair in calls if pair[0].shape == pair[1].shape]  # self-attention alone has as many keys as queries
    for whole, ours in zip(own[2], (found.query[2], found.key[2]), strict=True):
        assert torch.equal(ours.flatten(1, 2).transpose(1, 2), whole)


def test_no_gradient_flows_to_the_latents_of_the_image(backbone, latents, condition):
    found = backbone.capture(latents, TIMESTEP, condition, Request(frozenset({2}), velocity=True))
    weights = torch.randn(found.query[2].shape, generator=torch.Generator().manual_seed(0))
    (gradient,) = torch.autograd.grad((found.query[2] * weights).sum(), latents)
    assert not gradient[:, :, :1].any()
    assert gradient[:, :, 1:].any()
    assert not found.velocity[:, :, :1].any()


def test_what_stands_in_the_place_of_the_image_does_not_matter(backbone, latents, condition):
    other = torch.cat([torch.zeros_like(latents[:, :, :1]), latents[:, :, 1:]], 2)
    assert torch.equal(*(backbone.velocity(each, TIMESTEP, condition) for each in (latents, other)))


def test_an_image_and_its_text_are_told_apart(backbone, image):
    assert backbone.family.images == "optional"
    assert backbone.embed_images(image, VIDEO[0]).tensors.keys() == {GIVEN}
    assert backbone.embed_prompts([PROMPT]).given is None


def test_encoding_and_decoding_are_the_stock_autoencoders(ti2v, backbone):
    pipeline = WanPipeline.from_pretrained(ti2v)
    video = torch.rand(1, 3, *VIDEO, generator=torch.Generator().manual_seed(2)) * 2 - 1
    mean, std = (
        torch.tensor(getattr(pipeline.vae.config, name)).view(1, -1, 1, 1, 1)
        for name in ("latents_mean", "latents_std")
    )
    found = backbone.encode(video)
    with torch.no_grad():
        torch.testing.assert_close(found, (pipeline.vae.encode(video).latent_dist.mode() - mean) / std)
        torch.testing.assert_close(backbone.decode(found), pipeline.vae.decode(found * std + mean).sample)
    assert found.shape[1:] == backbone.latent_shape(*VIDEO)
