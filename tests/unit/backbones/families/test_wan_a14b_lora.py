"""LoRAs of Wan 2.2 A14B: trained for one of its transformers or both, written as pairs, read here and by diffusers."""

import shutil
from functools import partial
from types import SimpleNamespace

import pytest
import torch
import yaml
from diffusers import WanPipeline
from lightning import Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from safetensors import safe_open
from safetensors.torch import load_file
from torch.optim import AdamW

from fastvmt_pl.backbones import load_backbone
from fastvmt_pl.clips.video_writing import write_video
from fastvmt_pl.datamodules import DistillationDataModule
from fastvmt_pl.distillation import Sample, write_shard
from fastvmt_pl.distillation.lora_card import Training, export_lora
from fastvmt_pl.distillation.motion_distillation import MotionDistillation
from fastvmt_pl.distillation.shard_index import Shard, write_index
from fastvmt_pl.errors import UserError
from fastvmt_pl.lora import DIFFUSERS_FILE, HALVES, ORIGINAL_FILE, half_file
from fastvmt_pl.method.sampling import job_noise, sample
from fastvmt_pl.method.transfer_jobs import DistillationBatch
from fastvmt_pl.runs.distill_run import distill

SHAPE = (4, 3, 8, 12)
PROMPT = "a red circle on a gray background"
QUIET = dict.fromkeys(("enable_checkpointing", "enable_progress_bar", "enable_model_summary", "logger"), False)
FILES = {half_file(file, expert) for file in (DIFFUSERS_FILE, ORIGINAL_FILE) for expert in HALVES}


@pytest.fixture(scope="module")
def data_folder(t2v_a14b, tmp_path_factory):
    """A data folder with a clip and a sample with its trajectory."""
    folder, backbone = tmp_path_factory.mktemp("data"), load_backbone(str(t2v_a14b))
    row = backbone.embed_prompts([PROMPT]).compact()
    walked = job_noise((4, *SHAPE), [0])[0]
    sigmas = torch.tensor([1.0, 0.9, 0.5, 0.0])
    write_shard(folder / "clip.tar", [Sample(walked[-1], row, PROMPT)])
    write_shard(folder / "made.tar", [Sample(walked[-1], row, PROMPT, 1, {}, walked, sigmas, 4.0)])
    write_index(folder, [Shard("clip.tar", "clip", 1), Shard("made.tar", "samples", 1)])
    return folder


@pytest.fixture(scope="module")
def train(t2v_a14b, data_folder):
    """Train a LoRA for some steps; keyword arguments go to the module."""

    def run(source="clip", **options):
        module = MotionDistillation(
            load_backbone(str(t2v_a14b)), rank=2, alpha=4.0, optimizer=partial(AdamW, lr=1e-2), shift=3.0, **options
        )
        data = DistillationDataModule(data_folder, source, batch_size=2, batches_per_epoch=6)
        Trainer(accelerator="cpu", max_steps=6, **QUIET).fit(module, data)
        return module

    return run


def write(module, folder):
    training = Training("the clip", num_steps=6, batch_size=2, shape=(9, 64, 96), shift=3.0)
    return export_lora(module.read_adapters(), module, folder, training)


@pytest.fixture(scope="module")
def trained(train):
    return train()


@pytest.fixture(scope="module")
def lora(trained, tmp_path_factory):
    """The folder of a LoRA for both transformers."""
    folder = tmp_path_factory.mktemp("lora")
    write(trained, folder)
    return folder


def predicted(backbone, timestep):
    latents, condition = job_noise(SHAPE, [7]), backbone.embed_prompts([PROMPT])
    with torch.no_grad():
        return backbone.velocity(latents, timestep, condition)


def test_both_transformers_are_trained_and_written(trained, lora):
    for adapter in trained.read_adapters().values():
        assert all(tensor.abs().max() > 0 for tensor in adapter.weights.values())
    assert {path.name for path in lora.iterdir()} == {*FILES, "README.md"}
    card = (lora / "README.md").read_text()
    for fact in (*FILES, "load_into_transformer_2=True", "high_noise, low_noise"):
        assert fact in card


def test_the_pair_does_the_same_here_and_in_the_stock_pipeline(t2v_a14b, trained, lora):
    fused = load_backbone(str(t2v_a14b), loras={str(lora): 1.0})
    for timestep in (950.0, 300.0):
        expected, plain = predicted(trained.backbone, timestep), predicted(load_backbone(str(t2v_a14b)), timestep)
        torch.testing.assert_close(predicted(fused, timestep), expected, rtol=1e-4, atol=1e-5)
        assert (expected - plain).norm() > 1e-3 * plain.norm()
    pipeline = WanPipeline.from_pretrained(t2v_a14b)
    pipeline.set_progress_bar_config(disable=True)
    for expert, options in zip(HALVES, ({}, {"load_into_transformer_2": True}), strict=True):
        pipeline.load_lora_weights(lora, weight_name=half_file(DIFFUSERS_FILE, expert), **options)
    expected = pipeline(
        prompt=PROMPT,
        negative_prompt="",
        latents=job_noise(SHAPE, [5]),
        height=64,
        width=96,
        num_frames=9,
        num_inference_steps=6,
        guidance_scale=2.0,
        output_type="latent",
    ).frames
    found = sample(fused, [PROMPT], [5], SHAPE, pipeline.scheduler.sigmas, 2.0, "")
    assert (found - expected).norm() < 1e-4 * expected.norm()


@pytest.mark.parametrize("file", sorted(FILES))
def test_either_file_stands_for_the_pair(t2v_a14b, lora, file):
    whole, found = (load_backbone(str(t2v_a14b), loras={str(path): 1.0}) for path in (lora, lora / file))
    for timestep in (950.0, 300.0):
        torch.testing.assert_close(predicted(found, timestep), predicted(whole, timestep))
    assert found.fingerprint() != load_backbone(str(t2v_a14b)).fingerprint()


@pytest.mark.parametrize("missing", HALVES)
def test_half_a_pair_is_refused_by_the_name_of_the_other_half(t2v_a14b, lora, tmp_path, missing):
    folder = shutil.copytree(lora, tmp_path / "lora")
    (folder / half_file(DIFFUSERS_FILE, missing)).unlink()
    with pytest.raises(UserError, match=half_file(DIFFUSERS_FILE, missing)):
        load_backbone(str(t2v_a14b), loras={str(folder): 1.0})


def test_one_file_is_refused_for_two_transformers(t2v_a14b, lora, tmp_path):
    file = shutil.copy(lora / half_file(ORIGINAL_FILE, "high_noise"), tmp_path / "panda.safetensors")
    with pytest.raises(UserError, match=r"panda\.safetensors"):
        load_backbone(str(t2v_a14b), loras={str(file): 1.0})
    with pytest.raises(UserError, match=half_file(DIFFUSERS_FILE, "high_noise")):
        load_backbone(str(t2v_a14b), loras={str(tmp_path): 1.0})


@pytest.mark.parametrize("expert", HALVES)
def test_a_lora_of_one_transformer_is_one_file_that_says_so(t2v_a14b, train, tmp_path, expert):
    number, other = HALVES.index(expert), 1 - HALVES.index(expert)
    module = train(expert=expert)
    deviations = write(module, tmp_path)
    files = {half_file(file, expert) for file in (DIFFUSERS_FILE, ORIGINAL_FILE)}
    assert set(deviations) == files == {path.name for path in tmp_path.glob("*.safetensors")}
    fused, plain = (load_backbone(str(t2v_a14b), loras=loras) for loras in ({str(tmp_path): 1.0}, None))
    timesteps = (950.0, 300.0)
    torch.testing.assert_close(
        predicted(fused, timesteps[number]), predicted(module.backbone, timesteps[number]), rtol=1e-4, atol=1e-5
    )
    assert torch.equal(predicted(fused, timesteps[other]), predicted(plain, timesteps[other]))
    with safe_open(tmp_path / half_file(DIFFUSERS_FILE, expert), "pt") as file:
        assert {"lora_adapter_metadata"} < set(file.metadata())  # diffusers' own is still there
    assert all(tensor.isfinite().all() for tensor in load_file(tmp_path / half_file(DIFFUSERS_FILE, expert)).values())


@pytest.mark.parametrize("expert", [None, *HALVES])
def test_noise_levels_are_those_of_the_trained_transformers(t2v_a14b, expert):
    module = MotionDistillation(load_backbone(str(t2v_a14b)), expert=expert, shift=3.0)
    draws = torch.arange(2000)
    latents = torch.zeros(2000, 1, 1, 1, 1)
    _, sigma, _ = module.target(DistillationBatch(latents, None, draws, None, None, torch.ones(2000), []))
    found = {module.backbone.family.expert_at(float(1000 * each)) for each in sigma}
    assert found == ({0, 1} if expert is None else {HALVES.index(expert)})
    lowest, highest = module.noise_levels
    assert lowest <= sigma.min() < lowest + 0.01
    assert highest - 0.01 < sigma.max() <= highest


@pytest.mark.parametrize("expert", [None, *HALVES])
def test_steps_of_trajectories_are_those_of_the_trained_transformers(train, expert):
    module = train("samples", expert=expert, objective="trajectory")
    assert all(each.abs().max() > 0 for adapter in module.read_adapters().values() for each in adapter.weights.values())


def test_a_model_with_one_transformer_has_no_expert_to_choose():
    with pytest.raises(UserError, match="high_noise"):
        MotionDistillation(load_backbone("wan-tiny"), expert="high_noise")


def test_both_transformers_are_not_sharded_at_once(t2v_a14b):
    module = MotionDistillation(load_backbone(str(t2v_a14b)))
    trainer = SimpleNamespace(strategy=ModelParallelStrategy())
    module.trainer = trainer
    with pytest.raises(UserError, match="expert"):
        module.configure_model()


def test_the_path_of_a_sampler_with_two_scales_is_not_learned(t2v_a14b, tmp_path):
    write_video(tmp_path / "clip.mp4", torch.zeros(9, 64, 96, 3, dtype=torch.uint8), 8.0)
    backbone = {"class_path": "fastvmt_pl.backbones.DiffusersBackbone", "init_args": {"model": str(t2v_a14b)}}
    teacher = {
        "model": {"backbone": backbone, "guidance_scale": 4.0, "low_noise_guidance_scale": 3.0},
        "data": {"num_frames": 9, "size": [64, 96], "motion": {"block": 1, "window": 4}},
    }
    (tmp_path / "teacher.yaml").write_text(yaml.safe_dump(teacher))
    (tmp_path / "training.yaml").write_text(yaml.safe_dump({"model": {"backbone": backbone}}))
    with pytest.raises(UserError, match="low_noise_guidance_scale"):
        distill(
            str(tmp_path / "clip.mp4"),
            PROMPT,
            str(t2v_a14b),
            tmp_path / "out",
            source="samples",
            objective="trajectory",
            device="cpu",
            teacher_config=tmp_path / "teacher.yaml",
            config=tmp_path / "training.yaml",
        )
    assert not (tmp_path / "out").exists()
