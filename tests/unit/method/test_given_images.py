"""Videos that begin with an image: its latents stay as they are, and nothing else of the method changes."""

from functools import partial

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from fastvmt_pl.callbacks import GradientCache
from fastvmt_pl.clips.clip import fit as fit_to
from fastvmt_pl.method.optimizers import NormalizedGradientDescent
from fastvmt_pl.toy import ToyWorld

PROMPTS = ("a red cross on a navy background", "a blue circle on a gray background")
DECAY = partial(torch.optim.AdamW, lr=0.05, weight_decay=0.5)


@pytest.fixture(scope="module")
def images():
    return [ToyWorld(5, num_objects=1)[number].frames[0] for number in range(2)]


@pytest.fixture(scope="module")
def encoded(backbone, images):
    return torch.cat([backbone.encode(fit_to(image[None], (16, 16))) for image in images])


@pytest.mark.parametrize("optimizer", [DECAY, partial(NormalizedGradientDescent, lr=0.05)], ids=["decay", "normalised"])
@pytest.mark.parametrize("interval", [1, 3])
def test_the_images_latents_stay_to_the_bit_and_the_others_move(fit, images, encoded, optimizer, interval):
    module = fit(
        [GradientCache(interval=interval)],
        prompts=PROMPTS,
        images=images,
        optimizer=optimizer,
        baseline=True,
        trainer={"gradient_clip_val": 0.1},
    )
    assert torch.equal(module.result.latents[:, :, :1], encoded)
    assert torch.equal(module.baseline_latents[:, :, :1], encoded)
    assert not torch.equal(module.result.latents[:, :, 1:], module.baseline_latents[:, :, 1:])


def test_the_image_changes_the_rest_of_the_video(fit, images):
    with_one, with_other, without = (
        fit(images=given, num_guided_steps=0).result.latents[:, :, 1:] for given in (images[:1], images[1:], None)
    )
    assert (with_one - with_other).norm() > 0.05 * with_one.norm()
    assert (with_one - without).norm() > 0.05 * with_one.norm()


def test_jobs_with_images_do_not_influence_each_other(fit, images):
    together = fit(prompts=PROMPTS, images=images).result.latents
    for number in range(2):
        alone = fit(prompts=PROMPTS[number : number + 1], images=images[number : number + 1], seed=number).result
        assert (together[number] - alone.latents[0]).norm() < 1e-4 * together[number].norm()


def test_one_image_serves_all_prompts(fit, images):
    shared = fit(prompts=PROMPTS, images=images[:1]).result.latents
    assert torch.equal(shared, fit(prompts=PROMPTS, images=[images[0]] * 2).result.latents)


def test_a_run_resumed_anywhere_goes_on_to_the_same_bits(fit, images, tmp_path):
    every = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, every_n_train_steps=1)
    whole = fit([every, GradientCache(interval=2)], images=images[:1], optimizer=DECAY).result.latents
    for step in (2, 4, 7):
        kept = tmp_path / f"step={step}.ckpt"
        resumed = fit([GradientCache(interval=2)], images=images[:1], optimizer=DECAY, ckpt_path=kept)
        assert torch.equal(resumed.result.latents, whole)


def test_the_reference_is_read_with_its_own_first_frame(fit, images, backbone, monkeypatch):
    seen = []
    capture = backbone.capture

    def watched(latents, timestep, condition, request):
        seen.append((latents.requires_grad, condition.given))
        return capture(latents, timestep, condition, request)

    monkeypatch.setattr(backbone, "capture", watched)
    module = fit(images=images[:1])
    read = [given for guided, given in seen if not guided]
    assert read
    reference = module.jobs.reference[:, :, :1]
    assert all((given - reference).norm() < 1e-4 * reference.norm() for given in read)
