"""What is planned against what is measured on real tensors by PyTorch's profiler."""

import json
import shutil

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch import nn

from fastvmt_pl.backbones import DiffusersBackbone
from fastvmt_pl.backbones.condition import Condition
from fastvmt_pl.backbones.model_folder import BUNDLED
from fastvmt_pl.backbones.untrained import untrained
from fastvmt_pl.method.extraction import read_motion
from fastvmt_pl.method.finish import Finish
from fastvmt_pl.method.motion_transfer import MotionTransfer
from fastvmt_pl.objectives import AttentionFlow
from fastvmt_pl.planning import Workload, calibrate, plan
from fastvmt_pl.processes.peak_memory import PeakMemory

PROMPT = "a red cross on a navy background"


def workload(num_jobs=1, num_frames=5, size=(48, 48), motion=AttentionFlow(block=4, window=7), **options):
    counts = {"num_batches": 1, "num_clips": 1, "num_levels": 1, "extraction_batch": 1, "num_gradients": 4} | options
    return Workload(num_frames, size, motion, (PROMPT,) * num_jobs, **counts)


def measured(backbone, work, guidance):
    """Take the same steps on real tensors; return the growth of memory in bytes."""
    module, found = MotionTransfer(backbone, negative_prompt="", guidance=guidance), {}

    def measure(name, run):
        with PeakMemory("cpu") as peak:
            result = run()
        found[name] = peak.num_bytes
        return result

    null, condition = backbone.embed_prompts([""]), backbone.embed_prompts(list(work.prompts))
    backbone.release_text_encoder()
    backbone.load_weights()
    latents = measure("encoding", lambda: backbone.encode(torch.rand(1, 3, work.num_frames, *work.size)))

    target = measure("extraction", lambda: read_motion(backbone, latents, torch.full((1,), 0.5), [work.motion]))
    module.condition, module.negative_condition = condition, null.expand(len(condition))
    module.latents = nn.Parameter(latents.repeat(len(work.prompts), 1, 1, 1, 1))

    def guide():
        optimizer = module.configure_optimizers()
        module.training_step(target, 0).backward()
        optimizer.step()

    for checkpointing in (True, False):
        backbone.transformer.gradient_checkpointing = checkpointing
        measure(f"gradient, checkpointing {checkpointing}", guide)
        module.latents.grad, module.velocities = None, {}
        for loss in module.losses:
            loss.reset()
    if guidance == "fused":
        measure("ending", lambda: module.denoised(module.latents.data, 0, module.latents.data))
    denoised = measure("denoising", lambda: module.denoised(module.latents.data, 0))
    measure("decoding", lambda: module.decoded(denoised[:1]))
    return found


def planned(backbone, work, guidance):
    """Return what is planned under the same names."""
    rehearsal = plan(MotionTransfer(backbone, negative_prompt="", guidance=guidance), work).rehearsal
    names = ["encoding", "extraction", "denoising", "decoding", *(["ending"] if guidance == "fused" else [])]
    found = {name: getattr(rehearsal, name).growth for name in names}
    return found | {f"gradient, checkpointing {on}": reading.growth for on, reading in rehearsal.gradient.items()}


def assert_as_measured(backbone, work, guidance="optimise"):
    expected, found = measured(backbone, work, guidance), planned(backbone, work, guidance)
    assert found.keys() == expected.keys()
    for name in expected:
        print(f"| {name} | {found[name] / 2**20:.2f} | {expected[name] / 2**20:.2f} |")
    for name in expected:
        assert found[name] == pytest.approx(expected[name], rel=0.15), name


@pytest.mark.parametrize("guidance", ["optimise", "fused"])
def test_planned_memory_equals_that_of_real_tensors(guidance):
    assert_as_measured(DiffusersBackbone("wan-tiny", gradient_checkpointing=True), workload(2), guidance)


def test_fused_guidance_saves_the_pass_up_to_the_block_and_all_gradients_but_one():
    work, backbone = workload(num_gradients=10), DiffusersBackbone("wan-tiny")
    apart, fused = (
        {step.name: step for step in plan(MotionTransfer(backbone, negative_prompt="", guidance=guidance), work).steps}
        for guidance in ("optimise", "fused")
    )
    steps = ("guide: a gradient", "denoise: a step")
    ended = ("guide: a gradient", "guide: end the step")
    before, after = (
        sum(found[name].reading.flops for name in names) for found, names in ((apart, steps), (fused, ended))
    )
    up_to_the_block = apart["read its motion"].reading.flops
    assert before - after == pytest.approx(up_to_the_block, rel=0.05)
    assert fused["denoise: a step"].num_times == apart["denoise: a step"].num_times - 10


def test_an_offloaded_autoencoder_only_counts_where_it_is_used(tmp_path):
    folder = shutil.copytree(BUNDLED["wan-tiny"], tmp_path / "model")
    config = json.loads((folder / "transformer" / "config.json").read_text())
    (folder / "transformer" / "config.json").write_text(json.dumps(config | {"num_layers": 1}))  # makes shorter work
    work = workload(motion=AttentionFlow(block=0, window=7))
    found = plan(MotionTransfer(DiffusersBackbone(str(folder), offload=True), negative_prompt=""), work)
    before = [
        step.reading.before for step in found.steps[1:]
    ]  # an encoding, its motion, a gradient, denoising, decoding
    idle = found.sizes["autoencoder"].num_bytes
    assert [before[0] - each for each in before[1:4]] == pytest.approx([idle] * 3, rel=0.05)
    assert before[4] == pytest.approx(before[0], rel=0.05)


def test_a_finish_takes_the_place_of_the_last_steps(tmp_path, write_lora):
    finish = Finish({str(write_lora(tmp_path / "few.safetensors")): 1.0}, num_steps=3)
    module = MotionTransfer(
        DiffusersBackbone("wan-tiny"), num_steps=30, num_guided_steps=8, negative_prompt="", finish=finish
    )
    steps = {step.name: step for step in plan(module, workload()).steps}
    plain, last = steps["denoise: a step"], steps["finish: a step"]
    assert (plain.num_times, last.num_times) == (2 * 8, 2 * 3)  # of the video and of its baseline
    assert last.reading.flops == pytest.approx(plain.reading.flops / 2, rel=0.01)
    unguided = MotionTransfer(DiffusersBackbone("wan-tiny"), num_guided_steps=0, negative_prompt="", finish=finish)
    found = plan(unguided, workload(num_gradients=0))
    passes = {step.name: found.forward_equivalents(step) for step in found.steps}
    assert passes["finish: a step"] == pytest.approx(2 * 3)


@pytest.mark.slow
def test_planned_memory_equals_that_of_a_model_of_wan_2_1_1_3bs_size(tmp_path):
    shutil.copytree(
        BUNDLED["wan-tiny"], tmp_path, ignore=shutil.ignore_patterns("transformer", "vae"), dirs_exist_ok=True
    )
    AutoencoderKLWan().save_pretrained(tmp_path / "vae")
    torch.set_default_dtype(torch.bfloat16)  # in fp32 first, it would take twice the memory
    try:
        transformer = WanTransformer3DModel(num_attention_heads=12, ffn_dim=8960, num_layers=30, text_dim=64)
    finally:
        torch.set_default_dtype(torch.float32)
    transformer.save_pretrained(tmp_path / "transformer")
    del transformer
    backbone = DiffusersBackbone(str(tmp_path), dtype="bfloat16", gradient_checkpointing=True)
    assert_as_measured(backbone, workload(1, 9, (128, 128), AttentionFlow()))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_an_untrained_model_has_the_shapes_and_precisions_of_the_real_one(dtype):
    backbone = DiffusersBackbone("wan-tiny", dtype=dtype)
    for real, fake in zip(backbone.parts().values(), untrained(backbone).parts().values(), strict=True):
        tensors = [dict([*part.named_parameters(), *part.named_buffers()]) for part in (real, fake)]
        shapes = [{name: (each.shape, each.dtype) for name, each in one.items()} for one in tensors]
        assert shapes[0] == shapes[1]
    prompts = ["", PROMPT]
    real, fake = (each.embed_prompts(prompts).tensors["text"] for each in (backbone, untrained(backbone)))
    assert (real.any(-1) == fake.any(-1)).all()


def test_calibration_times_two_random_blocks():
    backbone = DiffusersBackbone("wan-tiny")
    rates = calibrate(backbone, Condition({"text": torch.ones(1, 512, 64)}), (8, 3, 16, 16))
    assert min(rates.prediction, rates.gradient, rates.autoencoder) > 0
