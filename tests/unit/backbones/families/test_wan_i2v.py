"""Wan 2.1 image to video against its stock pipeline, on a tiny model of its own classes with random weights."""

import json
import shutil

import pytest
import torch
from diffusers import WanImageToVideoPipeline
from PIL import Image
from torch.nn import functional

from fastvmt_pl.backbones import Request, load_backbone
from fastvmt_pl.errors import UserError
from fastvmt_pl.method.extraction import read_motion
from fastvmt_pl.method.measuring import motion_of
from fastvmt_pl.method.motion_transfer import MotionTransfer
from fastvmt_pl.method.sampling import job_noise, sample
from fastvmt_pl.objectives import AttentionFlow
from fastvmt_pl.planning.run_plan import plan
from fastvmt_pl.planning.workload import Workload

VIDEO = (9, 64, 96)
TIMESTEP = torch.tensor([700.0, 300.0])
PROMPT, NEGATIVE = "a red circle on a gray background", "a cross"


@pytest.fixture(scope="module")
def backbone(i2v):
    return load_backbone(str(i2v))


@pytest.fixture(scope="module")
def pixels():
    return torch.randint(0, 256, (*VIDEO[1:], 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def image(pixels):
    return pixels.permute(2, 0, 1)[None, :, None] / 127.5 - 1


@pytest.fixture
def latents(backbone):
    return job_noise(backbone.latent_shape(*VIDEO), [3, 4]).requires_grad_()


@pytest.fixture
def condition(backbone, image):
    return backbone.embed_prompts([PROMPT, ""]).joined(backbone.embed_images(image, VIDEO[0]).expand(2))


def sampled(backbone, guidance_scale, sigmas, image):
    return sample(backbone, [PROMPT], [5], backbone.latent_shape(*VIDEO), sigmas, guidance_scale, NEGATIVE, image)


@pytest.mark.parametrize("guidance_scale", [1.0, 5.0])
def test_unguided_sampling_gives_the_stock_pipelines_latents(i2v, backbone, pixels, image, guidance_scale):
    pipeline = WanImageToVideoPipeline.from_pretrained(i2v)
    pipeline.set_progress_bar_config(disable=True)
    num_frames, height, width = VIDEO
    expected = pipeline(
        image=Image.fromarray(pixels.numpy()),
        prompt=PROMPT,
        negative_prompt=NEGATIVE,
        latents=job_noise(backbone.latent_shape(*VIDEO), [5]),
        height=height,
        width=width,
        num_frames=num_frames,
        num_inference_steps=5,
        guidance_scale=guidance_scale,
        output_type="latent",
    ).frames
    found = sampled(backbone, guidance_scale, pipeline.scheduler.sigmas, image)
    assert (found - expected).norm() < 1e-4 * expected.norm()
    assert (found - sampled(backbone, guidance_scale, pipeline.scheduler.sigmas, -image)).norm() > 0.01 * found.norm()


def test_the_image_encoder_and_the_autoencoder_both_say_something(backbone, latents, condition):
    velocity = backbone.velocity(latents, TIMESTEP, condition)
    for name in condition.tensors.keys() - {"text"}:
        other = type(condition)({**condition.tensors, name: -condition.tensors[name]})
        assert (backbone.velocity(latents, TIMESTEP, other) - velocity).norm() > 1e-3 * velocity.norm()


def test_queries_keys_and_gradients_are_those_of_a_whole_pass(backbone, latents, condition, monkeypatch):
    calls, kernel = [], functional.scaled_dot_product_attention

    def watched(query, key, *args, **kwargs):
        calls.append((query, key))
        return kernel(query, key, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(functional, "scaled_dot_product_attention", watched)
        backbone.velocity(latents, TIMESTEP, condition)
    found = backbone.capture(latents, TIMESTEP, condition, Request(frozenset({2})))
    own = [pair for pair in calls if pair[0].shape == pair[1].shape]  # self-attention alone has as many keys as queries
    assert len(own) == 4
    for whole, ours in zip(own[2], (found.query[2], found.key[2]), strict=True):
        flat = ours.flatten(1, 2).transpose(1, 2)
        assert torch.equal(flat, whole)
        weights = torch.randn(whole.shape, generator=torch.Generator().manual_seed(0))
        (expected,) = torch.autograd.grad((whole * weights).sum(), latents, retain_graph=True)
        (gradient,) = torch.autograd.grad((flat * weights).sum(), latents, retain_graph=True)
        torch.testing.assert_close(gradient, expected)
        assert gradient.abs().amax((1, 3, 4)).all()  # no frame is fixed, the first included


def test_encoding_and_decoding_are_the_stock_autoencoders(i2v, backbone):
    pipeline = WanImageToVideoPipeline.from_pretrained(i2v)
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


def test_an_image_that_serves_several_videos_is_the_image_of_each(backbone, image):
    three = backbone.embed_images(torch.cat([image, -image, image]), VIDEO[0])
    for row, alone in zip(range(3), (image, -image, image), strict=True):
        for name, tensor in backbone.embed_images(alone, VIDEO[0]).tensors.items():
            assert torch.equal(three.tensors[name][row : row + 1], tensor)


def test_a_guided_transfer_runs_and_its_loss_falls(fit, toy_clips):
    found = fit(images=[toy_clips[0].frames[0]], baseline=True)
    assert found.result.latents.isfinite().all()
    assert not torch.equal(found.result.latents, found.baseline_latents)


def test_the_motion_of_a_video_is_read_with_its_own_first_frame(backbone, image):
    flow = AttentionFlow(block=1, window=4)
    latents = backbone.encode(image.expand(-1, -1, VIDEO[0], -1, -1))
    first = backbone.embed_images(backbone.decode(latents)[:, :, :1].clamp(-1, 1), VIDEO[0])
    expected = read_motion(backbone, latents, torch.tensor([0.1]), [flow], image=first)
    found = motion_of(backbone, latents, flow)
    assert torch.equal(found.of(None)[1]["flow"], expected.of(None)[1]["flow"])


def test_a_run_without_an_image_is_refused_before_weights_are_read(fit, backbone, i2v, monkeypatch):
    monkeypatch.setattr(type(backbone), "transformer", property(lambda _: pytest.fail("the weights were read")))
    with pytest.raises(UserError, match="image"):
        fit()


def test_no_lora_can_be_trained(backbone):
    with pytest.raises(UserError, match=backbone.name):
        backbone.family.check_lora_training()


def test_a_plan_counts_the_image_encoder_without_weights(backbone, i2v):
    counts = ("num_batches", "num_clips", "num_levels", "extraction_batch", "num_gradients")
    work = Workload(9, (64, 96), AttentionFlow(block=1, window=4), (PROMPT, ""), **dict.fromkeys(counts, 1))
    found = plan(MotionTransfer(backbone), work)
    real = WanImageToVideoPipeline.from_pretrained(i2v).image_encoder
    assert found.sizes["image encoder"].num_parameters == sum(each.numel() for each in real.parameters())
    assert found.peak > 0


@pytest.mark.parametrize(
    ("file", "changes", "kind"),
    [
        ("transformer/config.json", {"pos_embed_seq_len": 514}, "FLF2V"),
        ("transformer/config.json", {"image_dim": None}, "no tokens of the image"),
        ("model_index.json", {"boundary_ratio": 0.9, "image_encoder": [None, None]}, "two-expert"),
    ],
)
def test_other_kinds_of_image_to_video_are_refused_by_name(tmp_path, i2v, file, changes, kind):
    folder = shutil.copytree(i2v, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | changes))
    with pytest.raises(UserError, match=kind):
        load_backbone(str(folder))
