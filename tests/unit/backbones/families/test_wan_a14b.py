"""Wan 2.2 A14B against its stock pipelines, on tiny models of their own classes with two random transformers."""

import json
import shutil

import pytest
import torch
from diffusers import DiffusionPipeline, WanTransformer3DModel
from lightning import Trainer
from PIL import Image
from torch.nn import functional

from fastvmt_pl.backbones import Request, load_backbone
from fastvmt_pl.backbones.families.finding import family_of
from fastvmt_pl.backbones.untrained import untrained
from fastvmt_pl.clips.clip import Clip
from fastvmt_pl.datamodules import MotionDataModule
from fastvmt_pl.errors import UserError
from fastvmt_pl.method.extraction import read_levels
from fastvmt_pl.method.motion_transfer import MotionTransfer
from fastvmt_pl.method.sampling import flow_matching_sigmas, job_noise, sample
from fastvmt_pl.objectives import AttentionFlow, MotionFlowLoss
from fastvmt_pl.planning.meter import TensorMeter
from fastvmt_pl.runs.options import default_config

VIDEO = (9, 64, 96)
MIXED = torch.tensor([300.0, 950.0, 100.0])
"""Noise levels below the boundary, above it and below it."""
FLOW = AttentionFlow(block=1, window=4)
PROMPT, NEGATIVE = "a red circle on a gray background", "a cross"
QUIET = dict.fromkeys(("enable_checkpointing", "enable_progress_bar", "enable_model_summary", "logger"), False)


@pytest.fixture(scope="module", params=["t2v_a14b", "i2v_a14b"])
def folder(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def backbone(folder):
    return load_backbone(str(folder))


@pytest.fixture(scope="module")
def pixels():
    return torch.randint(0, 256, (*VIDEO[1:], 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def image(backbone, pixels):
    """The image, if the model needs one."""
    return pixels.permute(2, 0, 1)[None, :, None] / 127.5 - 1 if backbone.family.images == "required" else None


@pytest.fixture
def latents(backbone):
    return job_noise(backbone.latent_shape(*VIDEO), [3, 4, 5]).requires_grad_()


@pytest.fixture
def condition(backbone, image):
    text = backbone.embed_prompts([PROMPT, "", NEGATIVE])
    return text if image is None else text.joined(backbone.embed_images(image, VIDEO[0]).expand(3))


@pytest.fixture
def moves(backbone, monkeypatch):
    """Which of the transformers was asked to move where, one after the other."""
    asked, move = [], torch.nn.Module.to

    def watched(self, *args, **kwargs):
        if isinstance(self, WanTransformer3DModel):
            number = next(each for each in (0, 1) if backbone.lora_model(each) is self)
            asked.append((number, str(args[0])))
        return move(self, *args, **kwargs)

    backbone.load_weights()
    backbone.put_to_work([0])
    monkeypatch.setattr(torch.nn.Module, "to", watched)
    backbone.to("cpu:0")  # another device than "cpu", by its name
    yield asked
    backbone.to("cpu")


@pytest.mark.parametrize(("guidance_scale", "low"), [(1.0, None), (4.0, None), (4.0, 3.0), (4.0, 1.0)])
def test_unguided_sampling_gives_the_stock_pipelines_latents(folder, backbone, pixels, image, guidance_scale, low):
    pipeline = DiffusionPipeline.from_pretrained(folder)
    pipeline.set_progress_bar_config(disable=True)
    num_frames, height, width = VIDEO
    expected = pipeline(
        **({} if image is None else {"image": Image.fromarray(pixels.numpy())}),
        prompt=PROMPT,
        negative_prompt=NEGATIVE,
        latents=job_noise(backbone.latent_shape(*VIDEO), [5]),
        height=height,
        width=width,
        num_frames=num_frames,
        num_inference_steps=8,
        guidance_scale=guidance_scale,
        guidance_scale_2=low,
        output_type="latent",
    ).frames
    sigmas = pipeline.scheduler.sigmas
    assert {backbone.family.expert_at(1000 * float(sigma)) for sigma in sigmas} == {0, 1}
    shape = backbone.latent_shape(*VIDEO)
    found = sample(
        backbone, [PROMPT], [5], shape, sigmas, guidance_scale, NEGATIVE, image, low_noise_guidance_scale=low
    )
    assert (found - expected).norm() < 1e-4 * expected.norm()


def test_blocks_of_both_experts_may_wait(folder, backbone, image):
    settings = [PROMPT], [5], backbone.latent_shape(*VIDEO), flow_matching_sigmas(4, 5.0), 4.0, NEGATIVE, image
    offloaded = load_backbone(str(folder), offload_blocks=True)
    assert torch.equal(sample(offloaded, *settings), sample(backbone, *settings))
    offloaded.keep_blocks(1)
    assert torch.equal(sample(offloaded, *settings), sample(backbone, *settings))


def test_queries_and_keys_are_those_of_a_whole_pass_of_the_expert(backbone, latents, condition, monkeypatch):
    calls, kernel = [], functional.scaled_dot_product_attention

    def watched(query, key, *args, **kwargs):
        calls.append((query, key))
        return kernel(query, key, *args, **kwargs)

    for timestep in (950.0, 300.0):
        calls.clear()
        with monkeypatch.context() as patch:
            patch.setattr(functional, "scaled_dot_product_attention", watched)
            backbone.velocity(latents, timestep, condition)
        found = backbone.capture(latents, timestep, condition, Request(frozenset({2})))
        own = [pair for pair in calls if pair[0].shape == pair[1].shape]  # self-attention has as many keys as queries
        for whole, ours in zip(own[2], (found.query[2], found.key[2]), strict=True):
            assert torch.equal(ours.flatten(1, 2).transpose(1, 2), whole)


def test_each_job_of_a_batch_gets_the_expert_of_its_noise_level(backbone, latents, condition):
    asked = Request(frozenset({1}), hidden=frozenset({2}), velocity=True)
    velocity = backbone.velocity(latents, MIXED, condition)
    found = backbone.capture(latents, MIXED, condition, asked)
    assert found.latents is latents
    torch.testing.assert_close(1000 * found.sigma, MIXED)
    for job, timestep in enumerate(MIXED.tolist()):
        rows = slice(job, job + 1)
        alone = backbone.capture(latents[rows], timestep, condition[rows], asked)
        for ours, theirs in (
            (velocity, alone.velocity),
            (found.velocity, alone.velocity),
            (found.query[1], alone.query[1]),
            (found.key[1], alone.key[1]),
            (found.hidden[2], alone.hidden[2]),
        ):
            torch.testing.assert_close(ours[rows], theirs)
    (gradient,) = torch.autograd.grad(found.query[1].sum() + found.velocity.pow(2).sum(), latents)
    assert gradient.abs().amax((1, 2, 3, 4)).all()


def test_levels_on_both_sides_of_the_boundary_are_read_as_one_by_one(backbone, latents, condition):
    sigmas = torch.tensor([0.95, 0.3])
    rest = {name: x for name, x in condition.tensors.items() if name != "text"}
    given = type(condition)(rest)[[0]] if rest else None
    clean = latents[:1].detach()
    both, ones = (read_levels(backbone, clean, sigmas, [FLOW], batch_size=size, image=given) for size in (2, 1))
    torch.testing.assert_close(both.of(None)[1]["flow"], ones.of(None)[1]["flow"])


def test_the_boundary_is_compared_as_the_stock_pipeline_does(backbone):
    boundary = backbone.family.boundary / 1000
    assert backbone.family.expert_at(1000 * float(torch.tensor(boundary))) == 0
    assert backbone.family.expert_at(1000 * (boundary - 1e-4)) == 1


def test_the_idle_expert_is_in_the_cpus_memory_and_swapped_at_the_boundary(backbone, image, moves):
    assert moves == [(0, "cpu:0"), (1, "cpu")]
    moves.clear()
    sigmas = flow_matching_sigmas(6, 3.0)
    assert backbone.family.expert_at(1000 * float(sigmas[0])) == 0
    sample(backbone, [PROMPT], [5], backbone.latent_shape(*VIDEO), sigmas, 4.0, NEGATIVE, image)
    assert moves == [(0, "cpu"), (1, "cpu:0")]
    moves.clear()
    backbone.hold([0, 1])
    assert moves == [(0, "cpu:0")]
    noise, given = torch.zeros(1, *backbone.latent_shape(*VIDEO)), _given(backbone, image)
    backbone.velocity(noise, 950.0, given)
    assert moves == [(0, "cpu:0")]
    backbone.hold([])
    backbone.velocity(noise, 950.0, given)
    assert moves == [(0, "cpu:0"), (1, "cpu")]


def _given(backbone, image):
    text = backbone.embed_prompts([PROMPT])
    return text if image is None else text.joined(backbone.embed_images(image, VIDEO[0]))


def transfer(backbone, pixels, **settings):
    """Make a video of a clip of random frames in six steps, two of them guided."""
    draw = torch.Generator().manual_seed(4)
    clip = Clip(torch.randint(0, 256, (9, 64, 96, 3), dtype=torch.uint8, generator=draw), 16.0, "clip")
    images = {} if backbone.family.images == "none" else {"images": [pixels]}
    options = {"num_steps": 6, "num_guided_steps": 2, "num_inner_steps": 2, "negative_prompt": "", "shift": 3.0}
    module = MotionTransfer(backbone, losses=[MotionFlowLoss()], strength=1.0, **(options | settings))
    data = MotionDataModule([clip], [PROMPT], num_frames=9, size=(64, 96), motion=FLOW, keep_motion=False, **images)
    Trainer(accelerator="cpu", max_epochs=module.num_guided_steps, **QUIET).fit(module, data)
    return module


def test_a_guided_transfer_runs_and_its_second_scale_counts(backbone, pixels):
    found, other = (transfer(backbone, pixels, low_noise_guidance_scale=scale) for scale in (None, 1.0))
    assert found.result.latents.isfinite().all()
    assert not torch.equal(found.result.latents, found.baseline_latents)
    assert not torch.equal(found.result.latents, other.result.latents)


@pytest.mark.parametrize("scale", [0.5, float("nan")])
def test_a_second_scale_is_checked(backbone, scale):
    with pytest.raises(UserError, match="low_noise_guidance_scale"):
        MotionTransfer(backbone, low_noise_guidance_scale=scale)


def test_a_model_with_one_transformer_has_no_second_scale():
    with pytest.raises(UserError, match="low_noise_guidance_scale"):
        MotionTransfer(load_backbone("wan-tiny"), low_noise_guidance_scale=3.0)


def test_encoding_and_decoding_are_the_stock_autoencoders(folder, backbone):
    pipeline = DiffusionPipeline.from_pretrained(folder)
    video = torch.rand(1, 3, *VIDEO, generator=torch.Generator().manual_seed(2)) * 2 - 1
    mean, std = (
        torch.tensor(getattr(pipeline.vae.config, name)).view(1, -1, 1, 1, 1)
        for name in ("latents_mean", "latents_std")
    )
    found = backbone.encode(video)
    with torch.no_grad():
        torch.testing.assert_close(found, (pipeline.vae.encode(video).latent_dist.mode() - mean) / std)
        torch.testing.assert_close(backbone.decode(found), pipeline.vae.decode(found * std + mean).sample)


def test_a_plan_has_one_expert_in_memory_and_both_in_its_table(t2v_a14b):
    one = load_backbone(str(t2v_a14b))
    fake = untrained(one)
    condition, latents = one.family.example(), torch.zeros(1, *one.family.probe_shape)
    with TensorMeter() as meter:
        fake.load_weights()
        fake.velocity(latents, 950.0, condition)  # what it takes is counted when it is first seen
        with meter.reading() as high:
            fake.velocity(latents, 950.0, condition)
        with meter.reading() as low:
            fake.velocity(latents, 300.0, condition)
        with meter.reading() as after:
            pass
    assert after.before == high.before
    assert low.peak < high.peak + sum(each.nbytes for each in one.lora_model().parameters()) / 2
    assert high.flops == low.flops > 0
    one.hold([0, 1])  # as on a CPU
    both = untrained(one)
    with TensorMeter() as meter:
        both.load_weights()
        both.velocity(latents, 950.0, condition)
        with meter.reading() as held:
            both.velocity(latents, 300.0, condition)
    tensors = (*one.lora_model().parameters(), *one.lora_model().buffers())
    assert held.before - high.before == sum(each.nbytes for each in tensors)
    names = [f"{name} transformer" for name in ("high noise", "low noise")]
    found, real = fake.parts(), one.parts()
    for name in names:
        assert [each.shape for each in found[name].parameters()] == [each.shape for each in real[name].parameters()]


def changed(folder, made, file, **changes):
    """Copy a folder without its weights, and change one of its configs."""
    shutil.copytree(folder, made, ignore=shutil.ignore_patterns("*.safetensors"))
    (made / file).write_text(json.dumps(json.loads((made / file).read_text()) | changes))
    return str(made)


@pytest.mark.parametrize("kind", ["t2v_a14b", "i2v_a14b"])
def test_its_config_is_chosen_by_its_architecture(tmp_path, request, kind):
    shape = {"num_layers": 40, "num_attention_heads": 40, "attention_head_dim": 128}
    shape["in_channels"] = 36 if kind == "i2v_a14b" else 16
    model = changed(request.getfixturevalue(kind), tmp_path / "model", "transformer/config.json", **shape)
    shutil.copy(tmp_path / "model/transformer/config.json", tmp_path / "model/transformer_2/config.json")
    assert default_config(model).name == f"wan2.2_{kind}.yaml"


@pytest.mark.parametrize(
    ("file", "changes", "named"),
    [
        ("model_index.json", {"transformer_2": [None, None]}, "transformer_2"),
        ("model_index.json", {"transformer": [None, None]}, "transformer"),
        ("model_index.json", {"boundary_ratio": None}, "boundary_ratio"),
        ("transformer_2/config.json", {"num_layers": 2}, "num_layers"),
        ("transformer/config.json", {"image_dim": 24}, "tokens of the image"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused_by_what_is_missing(tmp_path, i2v_a14b, file, changes, named):
    model = changed(i2v_a14b, tmp_path / "model", file, **changes)
    if file == "transformer/config.json":
        shutil.copy(tmp_path / "model" / file, tmp_path / "model/transformer_2/config.json")
    with pytest.raises(UserError, match=named):
        family_of(model)


@pytest.mark.parametrize("missing", ["transformer", "transformer_2"])
def test_an_expert_without_weights_is_refused_before_any_are_read(tmp_path, t2v_a14b, missing):
    model = shutil.copytree(t2v_a14b, tmp_path / "model")
    for path in model.rglob("*.safetensors"):
        path.write_bytes(b"")
    next((model / missing).glob("*.safetensors")).unlink()
    with pytest.raises(UserError, match=missing):
        load_backbone(str(model))
