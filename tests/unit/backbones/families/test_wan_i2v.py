"""Wan 2.1 image to video against its stock pipeline, on a tiny model of its own classes with random weights."""

import json
import shutil

import pytest
import torch
from diffusers import WanImageToVideoPipeline
from lightning import Trainer
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional

from fastvmt_pl.backbones import Request, load_backbone
from fastvmt_pl.backbones.families.finding import family_of
from fastvmt_pl.clips.clip import Clip
from fastvmt_pl.datamodules import MotionDataModule
from fastvmt_pl.errors import UserError
from fastvmt_pl.method.extraction import read_motion
from fastvmt_pl.method.measuring import motion_of
from fastvmt_pl.method.motion_transfer import MotionTransfer
from fastvmt_pl.method.sampling import job_noise, sample
from fastvmt_pl.objectives import AttentionFlow, MotionFlowLoss
from fastvmt_pl.planning.calibration import calibrate
from fastvmt_pl.planning.run_plan import plan
from fastvmt_pl.planning.workload import Workload
from fastvmt_pl.runs.options import default_config

VIDEO = (9, 64, 96)
TIMESTEP = torch.tensor([700.0, 300.0])
FLOW = AttentionFlow(block=1, window=4)
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


def transfer(backbone, **options):
    """Make a video of a clip of random frames in four steps, two of them guided."""
    draw = torch.Generator().manual_seed(4)
    clip = Clip(torch.randint(0, 256, (9, 64, 96, 3), dtype=torch.uint8, generator=draw), 16.0, "clip")
    module = MotionTransfer(
        backbone, losses=[MotionFlowLoss()], num_steps=4, num_guided_steps=2, num_inner_steps=3, negative_prompt=""
    )
    data = MotionDataModule([clip], [PROMPT], num_frames=9, size=(64, 96), motion=FLOW, keep_motion=False, **options)
    quiet = dict.fromkeys(("enable_checkpointing", "enable_progress_bar", "enable_model_summary", "logger"), False)
    Trainer(accelerator="cpu", max_epochs=2, **quiet).fit(module, data)
    return module


def test_a_guided_transfer_changes_all_frames_and_depends_on_the_image(backbone, pixels):
    found, other = (transfer(backbone, images=[each]) for each in (pixels, 255 - pixels))
    difference = (found.result.latents - found.baseline_latents).abs().amax((0, 1, 3, 4))
    assert found.result.latents.isfinite().all()
    assert (difference > 0).all()
    assert not torch.equal(found.baseline_latents, other.baseline_latents)


def test_the_motion_of_a_video_is_read_with_its_own_first_frame(backbone, image):
    latents = backbone.encode(image.expand(-1, -1, VIDEO[0], -1, -1))
    first = backbone.embed_images(backbone.decode(latents)[:, :, :1].clamp(-1, 1), VIDEO[0])
    expected = read_motion(backbone, latents, torch.tensor([0.1]), [FLOW], image=first)
    found = motion_of(backbone, latents, FLOW)
    assert torch.equal(found.of(None)[1]["flow"], expected.of(None)[1]["flow"])


def test_a_run_without_an_image_is_refused_before_weights_are_read(tmp_path, i2v):
    folder = shutil.copytree(i2v, tmp_path / "model")
    for path in folder.rglob("*.safetensors"):
        path.write_bytes(b"")
    with pytest.raises(UserError, match="--image"):
        transfer(load_backbone(str(folder)))


def test_a_plan_counts_the_image_encoder_without_weights(backbone, i2v):
    counts = ("num_batches", "num_clips", "num_levels", "extraction_batch", "num_gradients")
    work = Workload(9, (64, 96), FLOW, (PROMPT, ""), **dict.fromkeys(counts, 1))
    module = MotionTransfer(backbone)
    found = plan(module, work)
    real = WanImageToVideoPipeline.from_pretrained(i2v).image_encoder
    assert found.sizes["image encoder"].num_parameters == sum(each.numel() for each in real.parameters())
    assert calibrate(backbone, found.rehearsal.condition, work.latent_shape(module)).gradient > 0


def test_what_a_plan_has_for_an_image_has_its_shapes(backbone, image):
    found, expected = backbone.family.blank_image(backbone.latent_shape(*VIDEO)), backbone.embed_images(image, VIDEO[0])
    assert {name: x.shape for name, x in found.tensors.items()} == {
        name: x.shape for name, x in expected.tensors.items()
    }


def changed(i2v, folder, file, **changes):
    """Copy the configs, and change one of them."""
    shutil.copytree(i2v, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    (folder / file).write_text(json.dumps(json.loads((folder / file).read_text()) | changes))
    return str(folder)


def test_its_config_is_chosen_by_its_architecture(tmp_path, i2v):
    shape = {"num_layers": 40, "num_attention_heads": 40, "attention_head_dim": 128, "in_channels": 36}
    assert default_config(changed(i2v, tmp_path / "model", "transformer/config.json", **shape)).is_file()


def test_an_image_encoder_with_a_projection_is_as_good(tmp_path, i2v):
    encoder = ["transformers", "CLIPVisionModelWithProjection"]
    family = family_of(changed(i2v, tmp_path / "model", "model_index.json", image_encoder=encoder))
    assert family.components["image_encoder"] == encoder[1]


def test_a_lora_of_image_layers_is_fused_by_the_original_codes_names(tmp_path, i2v, backbone):
    name = "diffusion_model.blocks.1.cross_attn.k_img"
    weights = {f"{name}.lora_A.weight": torch.ones(2, 32), f"{name}.lora_B.weight": torch.ones(32, 2)}
    save_file(weights, tmp_path / "lora.safetensors")
    adapted = load_backbone(str(i2v), loras={str(tmp_path / "lora.safetensors"): 1.0})
    found, plain = (dict(each.transformer.named_parameters()) for each in (adapted, backbone))
    differing = {name for name, tensor in found.items() if not torch.equal(tensor, plain[name])}
    assert differing == {"blocks.1.attn2.add_k_proj.weight"}
    probes = [each.family.probe(each.transformer) for each in (adapted, backbone)]
    assert not torch.equal(*probes)


@pytest.mark.parametrize(
    ("file", "changes", "kind"),
    [
        ("transformer/config.json", {"pos_embed_seq_len": 514}, "FLF2V"),
        ("transformer/config.json", {"image_dim": None}, "no tokens of the image"),
    ],
)
def test_other_kinds_of_image_to_video_are_refused_by_name(tmp_path, i2v, file, changes, kind):
    with pytest.raises(UserError, match=kind):
        load_backbone(changed(i2v, tmp_path / "model", file, **changes))
