"""All that a run does, on tiny CogVideoX models with random weights."""

from functools import partial

import pytest
import torch
import yaml
from diffusers import CogVideoXPipeline
from lightning import Callback, Trainer
from safetensors.torch import load_file
from torch import nn
from torch.optim import AdamW

from fastvmt_pl.backbones import load_backbone
from fastvmt_pl.cli.main import main
from fastvmt_pl.clips import Clip
from fastvmt_pl.clips.video_writing import write_video
from fastvmt_pl.datamodules import DistillationDataModule, MotionDataModule
from fastvmt_pl.distillation import Sample, write_shard
from fastvmt_pl.distillation.lora_card import Training, export_lora
from fastvmt_pl.distillation.motion_distillation import MotionDistillation
from fastvmt_pl.distillation.shard_index import Shard, write_index
from fastvmt_pl.lora import DIFFUSERS_FILE, read_adapter, remove_lora
from fastvmt_pl.method.extraction import read_motion
from fastvmt_pl.method.motion_transfer import MotionTransfer
from fastvmt_pl.objectives import AttentionFlow
from fastvmt_pl.planning import plan
from fastvmt_pl.planning.workload import Workload
from fastvmt_pl.processes.peak_memory import PeakMemory
from fastvmt_pl.runs.options import CONFIGS
from fastvmt_pl.toy import ToyWorld

PROMPT, SIZE = "a red circle on a gray background", (64, 64)
SETTINGS = AttentionFlow(block=1, window=3, tile=(2, 2))


@pytest.fixture(scope="module")
def clip():
    frames = ToyWorld(11, num_objects=1, camera=False, paths=("linear",))[0].frames
    return Clip(frames[:17], 8.0, "toy")


@pytest.fixture(scope="module")
def backbone(cogvideox):
    return load_backbone(str(cogvideox))


def quiet(**settings):
    return Trainer(
        accelerator="cpu",
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        **settings,
    )


class Losses(Callback):
    def __init__(self):
        self.values = []

    def on_train_batch_end(self, trainer, *args):
        self.values.append(float(trainer.callback_metrics["loss"]))


def test_guided_steps_lower_the_loss(backbone, clip, tmp_path):
    module = MotionTransfer(
        backbone, optimizer=partial(AdamW, lr=0.05), num_steps=3, num_guided_steps=2, num_inner_steps=4, shift=3.0
    )
    data = MotionDataModule(
        [clip],
        [PROMPT],
        num_frames=17,
        size=SIZE,
        motion=SETTINGS,
        cache_dir=tmp_path,
        extraction_batch=2,
    )
    losses = Losses()
    quiet(max_epochs=2, callbacks=[losses]).fit(module, data)
    assert losses.values[3] < losses.values[0]
    assert losses.values[7] < losses.values[4]
    assert module.result.frames.shape == (1, 17, *SIZE, 3)
    assert module.negative_prompt == ""


@pytest.mark.parametrize("cogvideox", ["5B", "1.5"], indirect=True)  # 2B has less: no rotary embeddings
def test_planned_memory_is_what_real_tensors_take(cogvideox):
    backbone = load_backbone(str(cogvideox))
    counts = ("num_batches", "num_clips", "num_levels", "extraction_batch", "num_gradients")
    work = Workload(17, (64, 96), SETTINGS, (PROMPT,), **dict.fromkeys(counts, 1))
    rehearsal = plan(MotionTransfer(backbone), work).rehearsal
    module, condition = MotionTransfer(backbone), backbone.embed_prompts([PROMPT])
    backbone.load_weights()
    with PeakMemory("cpu") as encoding:
        latents = backbone.encode(torch.rand(1, 3, 17, 64, 96))
    target = read_motion(backbone, latents, torch.full((1,), 0.5), [SETTINGS])
    module.condition, module.negative_condition, module.latents = condition, condition, nn.Parameter(latents)
    module.training_step(target, 0).backward()  # what it allocates once
    module.latents.grad = None
    for loss in module.losses:
        loss.reset()
    with PeakMemory("cpu") as gradient:
        module.training_step(target, 0).backward()
    with PeakMemory("cpu") as denoising:
        module.denoised(module.latents.data, 0)
    for found, measured in (
        (rehearsal.encoding, encoding),
        (rehearsal.gradient[False], gradient),
        (rehearsal.denoising, denoising),
    ):
        assert found.growth == pytest.approx(measured.num_bytes, rel=0.25)


@pytest.fixture
def trained(cogvideox_5b, clip, tmp_path):
    """A short training of a LoRA on a clip's own latents."""
    backbone = load_backbone(str(cogvideox_5b))
    latents = backbone.encode(clip.to_video(SIZE))[0]
    sample = Sample(latents, backbone.embed_prompts([PROMPT]).compact(), PROMPT)
    write_shard(tmp_path / "data" / "clip.tar", [sample])
    write_index(tmp_path / "data", [Shard("clip.tar", "clip", 1)])
    module, losses = MotionDistillation(backbone, rank=2, optimizer=partial(AdamW, lr=1e-2), shift=3.0), Losses()
    data = DistillationDataModule(tmp_path / "data", "clip", batch_size=2, batches_per_epoch=8)
    quiet(max_steps=8, callbacks=[losses]).fit(module, data)
    yield module
    remove_lora(backbone.transformer)


def test_a_trained_lora_is_read_back_by_the_stock_pipeline(trained, cogvideox_5b, tmp_path):
    adapter = read_adapter(trained.backbone.lora_model())
    training = Training("the clip", num_steps=8, batch_size=2, shape=(17, *SIZE), shift=3.0)
    deviations = export_lora({0: adapter}, trained, tmp_path / "lora", training)
    assert deviations.keys() == {DIFFUSERS_FILE}
    card = (tmp_path / "lora" / "README.md").read_text()
    assert "CogVideoXPipeline" in card
    assert "CogVideoXDDIMScheduler" in card
    assert "ComfyUI" not in card  # no naming is known that it reads
    pipeline = CogVideoXPipeline.from_pretrained(cogvideox_5b)
    pipeline.load_lora_weights(tmp_path / "lora")
    loaded = {name: x for name, x in pipeline.transformer.named_parameters() if "lora_B" in name}
    assert len(loaded) == 4 * 4
    written = load_file(tmp_path / "lora" / DIFFUSERS_FILE)
    assert all(name.startswith("transformer.transformer_blocks.") for name in written)
    for name, tensor in loaded.items():
        assert torch.equal(tensor, written[f"transformer.{name.replace('.default_0', '')}"])
        assert tensor.abs().max() > 0


def test_a_fused_lora_does_what_the_adapter_does(trained, cogvideox_5b, tmp_path):
    backbone = trained.backbone
    training = Training("the clip", num_steps=8, batch_size=2, shape=(17, *SIZE), shift=3.0)
    export_lora(trained.read_adapters(), trained, tmp_path / "lora", training)
    fused = load_backbone(str(cogvideox_5b), loras={str(tmp_path / "lora"): 1.0})
    latents, condition = torch.randn(1, *backbone.latent_shape(17, *SIZE)), backbone.embed_prompts([PROMPT])
    with torch.no_grad():
        expected = backbone.velocity(latents, 500.0, condition)
        torch.testing.assert_close(fused.velocity(latents, 500.0, condition), expected, rtol=1e-3, atol=1e-3)
        assert fused.fingerprint() != load_backbone(str(cogvideox_5b)).fingerprint()


def test_a_transfer_runs_from_end_to_end(cogvideox_5b, clip, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_video(tmp_path / "clip.mp4", clip.frames, 8.0)
    config = yaml.safe_load((CONFIGS / "cogvideox" / "2b.yaml").read_text())
    config["model"] |= {"num_steps": 3, "num_guided_steps": 1, "num_inner_steps": 2}
    config["model"]["backbone"]["init_args"] |= {"model": str(cogvideox_5b), "dtype": "float32"}
    config["data"] |= {"num_frames": 17, "size": list(SIZE), "motion": {"block": 1, "window": 3, "tile": [2, 2]}}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(config))
    words = ["transfer", "clip.mp4", PROMPT, "--config", "small.yaml", "--model", str(cogvideox_5b), "--output", "out"]
    assert main([*words, "--device", "cpu"]) == 0
    assert (tmp_path / "out" / "output.mp4").exists()
    assert main(["plan", "--config", "small.yaml", "--device", "cpu", "--no-calibrated"]) == 0
