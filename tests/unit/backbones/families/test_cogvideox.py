"""CogVideoX against its stock pipeline, on tiny models of its own classes with random weights."""

import json

import pytest
import torch
from diffusers import CogVideoXDDIMScheduler, CogVideoXPipeline
from einops import rearrange
from torch.nn import functional

from fastvmt_pl.backbones import Request, load_backbone
from fastvmt_pl.errors import UserError
from fastvmt_pl.method.sampling import job_noise, sample
from fastvmt_pl.runs.identity import model_content

PROMPTS = ["a red circle on a gray background", ""]
VIDEO = (9, 64, 80)
TIMESTEP = torch.tensor([700.0, 300.0])


@pytest.fixture(scope="module")
def backbone(cogvideox):
    return load_backbone(str(cogvideox))


@pytest.fixture
def latents(backbone):
    return job_noise(backbone.latent_shape(*VIDEO), [3, 4]).requires_grad_()


@pytest.fixture
def condition(backbone):
    return backbone.embed_prompts(PROMPTS)


@pytest.fixture(scope="module")
def stock(cogvideox):
    pipeline = CogVideoXPipeline.from_pretrained(cogvideox)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.mark.parametrize("guidance_scale", [1.0, 6.0])
def test_unguided_sampling_gives_the_stock_pipelines_latents(backbone, stock, guidance_scale):
    num_steps, (num_frames, height, width), prompt, negative = 10, VIDEO, PROMPTS[0], "a cross"
    noise = job_noise(backbone.latent_shape(*VIDEO), [5])
    expected = stock(
        prompt,
        negative_prompt=negative,
        latents=rearrange(noise, "b c f h w -> b f c h w"),
        height=height,
        width=width,
        num_frames=num_frames,
        num_inference_steps=num_steps,
        guidance_scale=guidance_scale,
        output_type="latent",
    ).frames
    levels = backbone.family.levels[stock.scheduler.timesteps].float()
    assert levels[0] == 1  # pure noise, as the project's own schedules begin
    sigmas = torch.cat([levels, torch.zeros(1)])
    found = sample(backbone, [prompt], [5], backbone.latent_shape(*VIDEO), sigmas, guidance_scale, negative)
    assert (found - rearrange(expected, "b f c h w -> b c f h w")).norm() < 1e-5 * found.norm()
    assert (found - noise).norm() > 0.1 * found.norm()


def by_hooks(backbone, latents, condition, block):
    """Queries and keys before the rotary embedding, hidden states and the velocity of a whole pass."""
    kept, module = {}, backbone.transformer.transformer_blocks[block]
    parts = {"query": module.attn1.norm_q, "key": module.attn1.norm_k}
    handles = [
        part.register_forward_hook(lambda m, i, output, name=name: kept.__setitem__(name, output.clone()))  # kept: the
        for name, part in parts.items()  # rotary embedding is applied in place
    ]
    handles.append(module.register_forward_hook(lambda m, i, output: kept.__setitem__("hidden", output[0])))
    velocity = backbone.velocity(latents, TIMESTEP, condition)
    for handle in handles:
        handle.remove()
    num_tokens = kept["hidden"].shape[1]
    frames = latents.shape[2] // (backbone.transformer.config.patch_size_t or 1)
    query, key = (
        rearrange(kept[name][:, :, -num_tokens:], "b h (f s) d -> b f s h d", f=frames) for name in ("query", "key")
    )
    return query, key, kept["hidden"].unflatten(1, (frames, -1)), velocity


def gradient(output, latents):
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(0))
    return torch.autograd.grad((output * weights).sum(), latents, retain_graph=True)[0]


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("velocity", [False, True])
def test_a_capture_is_what_hooks_see_in_a_whole_pass(backbone, latents, condition, velocity, checkpointing):
    blocks = frozenset({1, 3})
    expected = {block: by_hooks(backbone, latents, condition, block) for block in blocks}
    if checkpointing:
        backbone.transformer.enable_gradient_checkpointing()
    found = backbone.capture(latents, TIMESTEP, condition, Request(blocks, blocks, blocks, velocity=velocity))
    for block, (query, key, hidden, predicted) in expected.items():
        pairs = [(found.unrotated_query[block], query), (found.unrotated_key[block], key)]
        pairs += [(found.hidden[block], hidden), *([(found.velocity, predicted)] if velocity else [])]
        for ours, theirs in pairs:
            assert torch.equal(ours, theirs)
            assert (gradient(ours, latents) - gradient(theirs, latents)).norm() < 1e-5 * gradient(ours, latents).norm()
    backbone.transformer.disable_gradient_checkpointing()


def test_rotated_queries_and_keys_are_those_of_the_kernel_in_a_whole_pass(backbone, latents, condition, monkeypatch):
    calls, kernel = [], functional.scaled_dot_product_attention

    def watched(query, key, *args, **kwargs):
        calls.append((query, key))
        return kernel(query, key, *args, **kwargs)

    with torch.no_grad():
        with monkeypatch.context() as patch:
            patch.setattr(functional, "scaled_dot_product_attention", watched)
            backbone.velocity(latents, TIMESTEP, condition)
        found = backbone.capture(latents, TIMESTEP, condition, Request(frozenset({1, 2}), frozenset({2})))
    for block in (1, 2):
        for whole, own in zip(calls[block], (found.query[block], found.key[block]), strict=True):
            num_tokens = own.shape[1] * own.shape[2]
            assert torch.equal(rearrange(own, "b f s h d -> b h (f s) d"), whole[:, :, -num_tokens:])
    rotates = backbone.transformer.config.use_rotary_positional_embeddings
    assert torch.equal(found.query[2], found.unrotated_query[2]) != rotates


def test_jobs_of_a_batch_do_not_influence_each_other(backbone, latents, condition):
    together = backbone.velocity(latents, TIMESTEP, condition)
    for job in range(2):
        alone = backbone.velocity(latents[job : job + 1], float(TIMESTEP[job]), condition[[job]])
        torch.testing.assert_close(alone[0], together[job], rtol=1e-4, atol=1e-5)


def test_encoding_and_decoding_are_the_stock_pipelines(backbone, stock):
    video = torch.rand(1, 3, *VIDEO) * 2 - 1
    latents = backbone.encode(video)
    assert latents.shape[1:] == backbone.latent_shape(*VIDEO)
    padding = latents.shape[2] - 3  # of 1.5, which its pipeline drops before it decodes
    with torch.no_grad():
        mode = stock.vae.encode(video).latent_dist.mode() * stock.vae.config.scaling_factor
        torch.testing.assert_close(latents[:, :, padding:], mode)
        expected = stock.decode_latents(rearrange(latents, "b c f h w -> b f c h w")[:, padding:])
    torch.testing.assert_close(backbone.decode(latents), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("video", [(9, 64, 64), (17, 48, 96)])
def test_the_shape_of_latents_tells_that_of_the_video(backbone, video):
    backbone.check_geometry(*video)
    assert backbone.video_shape(backbone.latent_shape(*video)) == video
    assert backbone.decode(torch.zeros(1, *backbone.latent_shape(*video))).shape[2:] == video


@pytest.mark.parametrize(
    ("video", "given"), [((13, 64, 64), "13"), ((1, 64, 64), "1"), ((9, 72, 64), "72"), ((9, 64, 8), "8")]
)
def test_a_geometry_that_cannot_be_is_refused(backbone, video, given):
    with pytest.raises(UserError, match=f"is {given};"):
        backbone.check_geometry(*video)


def test_timesteps_are_exact_at_the_models_own_levels_and_clamped_below_them(backbone):
    scheduler, family = CogVideoXDDIMScheduler.from_pretrained(backbone.folder / "scheduler"), backbone.family
    alphas = scheduler.alphas_cumprod
    levels = (1 - alphas).sqrt() / (alphas.sqrt() + (1 - alphas).sqrt())
    steps = torch.tensor([0, 1, 20, 500, 998, 999])
    torch.testing.assert_close(family.own_timestep(levels[steps].float()), steps.float(), rtol=0, atol=0.01)
    assert family.own_timestep(torch.tensor([0.0, 0.01])).tolist() == [0, 0]
    between = family.own_timestep((levels[500:501] + levels[501:502]).float() / 2)
    assert 500 < float(between) < 501


@pytest.mark.parametrize("changes", [{"ofs_embed_dim": 16}, {"in_channels": 8}])
def test_a_member_that_takes_a_picture_is_refused(changed_cogvideox, changes):
    folder = changed_cogvideox(**changes)
    with pytest.raises(UserError, match="image-to-video"):
        load_backbone(str(folder))


def test_a_choice_of_kernel_that_would_have_no_effect_is_refused(cogvideox_5b):
    with pytest.raises(UserError, match="attention_backend"):
        load_backbone(str(cogvideox_5b), attention_backend="_native_math")


def test_low_precision_takes_float32_latents(cogvideox_5b):
    backbone = load_backbone(str(cogvideox_5b), dtype="bfloat16")
    start = torch.randn(1, *backbone.latent_shape(*VIDEO), requires_grad=True)
    condition = backbone.embed_prompts([PROMPTS[0]])
    query, _ = backbone.query_key(start, 500.0, condition, 2)
    query.float().sum().backward()
    assert (query.dtype, start.grad.dtype) == (torch.bfloat16, torch.float32)
    assert backbone.velocity(start, 500.0, condition).dtype == torch.float32


def test_a_size_beyond_the_table_of_rotary_embeddings_is_refused(backbone):
    if backbone.geometry.patch_size[0] == 1:
        backbone.check_geometry(9, 128, 128)  # of other kinds, it is stretched
        return
    with pytest.raises(UserError, match="128 x 128"):
        backbone.check_geometry(9, 128, 128)


def test_a_run_with_other_noise_levels_is_another_run(changed_cogvideox):
    folder = changed_cogvideox()
    before = model_content(str(folder))
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"snr_shift_scale": 2.0}))
    assert model_content(str(folder)) != before
