"""Caches of denoising steps on each family of models, and beside other settings of a backbone."""

import pytest
import torch

from fastvmt_pl.backbones import DiffusersBackbone, load_backbone
from fastvmt_pl.backbones.step_cache import StepCache
from fastvmt_pl.errors import UserError
from fastvmt_pl.method.sampling import denoise, flow_matching_sigmas, guided_velocity, job_noise

VIDEO = (9, 64, 96)
SIGMAS, FIRST = flow_matching_sigmas(6, 3.0), 2
PROMPTS = ["a red circle on a gray background", "a blue cross on a navy background"]
METHODS = ("first_block", "mag", "sea")
FOLDERS = ("cogvideox_5b", "ti2v", "i2v", "t2v_a14b", "i2v_a14b")


def step_cache(method, threshold):
    return StepCache(method, threshold, [1.0, 1.1, 1.2, 1.1, 1.2, 1.1] if method == "mag" else None)


@torch.no_grad()
def sampled(backbone, cache=None, jobs=(0, 1), video=VIDEO):
    """Return the latents of jobs, and the passes with the cache that ran all blocks."""
    condition = backbone.embed_prompts([PROMPTS[job] for job in jobs])
    negative = backbone.embed_prompts([""]).expand(len(jobs))
    if backbone.family.images == "required":
        given = backbone.embed_images(torch.zeros(1, 3, 1, *video[1:]), video[0]).expand(len(jobs))
        condition, negative = condition.joined(given), negative.joined(given)

    def run(latents, steps):
        for step in steps:
            velocity = guided_velocity(backbone, latents, 1000 * float(SIGMAS[step]), condition, negative, 4.0)
            latents = denoise(velocity, latents, SIGMAS, step)
        return latents

    latents = run(job_noise(backbone.latent_shape(*video), list(jobs)), range(FIRST))
    if cache is None:
        return run(latents, range(FIRST, len(SIGMAS) - 1)), None
    with backbone.cached(cache, SIGMAS, FIRST) as steps:
        return run(latents, range(FIRST, len(SIGMAS) - 1)), steps.num_whole


@pytest.fixture(scope="module", params=FOLDERS)
def backbone(request):
    return load_backbone(str(request.getfixturevalue(request.param)))


@pytest.mark.parametrize("method", METHODS)
def test_a_cache_leaves_blocks_out_within_its_context_alone(backbone, method):
    cache = step_cache(method, 1e3)
    if method not in backbone.family.step_caches:
        with pytest.raises(UserError, match="first_block"):
            backbone.check_step_cache(cache)
        return
    backbone.check_step_cache(cache)
    plain = sampled(backbone)[0]
    unused, whole = sampled(backbone, step_cache(method, 1e-9))
    assert whole == 16  # two jobs under two prompts, in four steps
    torch.testing.assert_close(unused, plain)
    found, whole = sampled(backbone, cache)
    assert whole < 16
    assert not torch.equal(found, plain)
    torch.testing.assert_close(found[1:], sampled(backbone, cache, jobs=[1])[0])
    assert torch.equal(sampled(backbone)[0], plain)


def test_which_families_have_which_caches(ti2v, i2v, cogvideox_5b):
    caches = {folder: load_backbone(str(folder)).family.step_caches for folder in (ti2v, i2v, cogvideox_5b)}
    assert "sea" in caches[ti2v]
    assert "sea" not in caches[i2v]
    assert "sea" not in caches[cogvideox_5b]


@pytest.mark.parametrize("settings", [{"quantization": "fp8"}, {"gradient_checkpointing": True}], ids=str)
def test_a_cache_goes_with_other_settings(settings):
    cache, small = StepCache("first_block", 1e3), (5, 16, 16)
    expected, whole = sampled(DiffusersBackbone(), cache, video=small)
    found = sampled(DiffusersBackbone(**settings), cache, video=small)
    assert found[1] == whole < 16
    assert (found[0] - expected).norm() < (0.1 if settings.get("quantization") else 1e-4) * expected.norm()


def test_a_cache_of_compiled_blocks_is_refused():
    with pytest.raises(UserError, match="compile"):
        DiffusersBackbone(compile=True).check_step_cache(step_cache("first_block", 0.1))
