"""LoRAs of Wan's image-to-video models: trained with each video's first frame, and read back by the stock pipeline."""

import tarfile
from functools import partial

import pytest
import torch
from lightning import Trainer
from torch.optim import AdamW

from fastvmt_pl.backbones import load_backbone
from fastvmt_pl.backbones.condition import Condition
from fastvmt_pl.clips import read_clip
from fastvmt_pl.clips.video_writing import write_video
from fastvmt_pl.datamodules import DistillationDataModule
from fastvmt_pl.distillation import read_shards
from fastvmt_pl.distillation.lora_card import Training, export_lora
from fastvmt_pl.distillation.motion_distillation import MotionDistillation
from fastvmt_pl.method.sampling import job_noise
from fastvmt_pl.runs.encode_run import encode

PROMPT = "a red circle on a gray background"
QUIET = dict.fromkeys(("enable_checkpointing", "enable_progress_bar", "enable_model_summary", "logger"), False)


@pytest.fixture(scope="module", params=["i2v", "i2v_a14b"])
def folder(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "a.mp4"
    frames = torch.randint(0, 256, (9, 8, 12, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))
    write_video(path, frames.repeat_interleave(8, 1).repeat_interleave(8, 2), 8.0)
    return path


@pytest.fixture(scope="module")
def data_folder(folder, clip, tmp_path_factory):
    """A data folder that ``fastvmt encode`` makes of a tar file with one video."""
    made = tmp_path_factory.mktemp("data")
    clip.with_suffix(".txt").write_text(PROMPT)
    with tarfile.open(made / "videos.tar", "w") as tar:
        for path in (clip, clip.with_suffix(".txt")):
            tar.add(path, path.name)
    (result,) = encode([made / "videos.tar"], made, str(folder), 9, "64x96", device="cpu", dtype="float32")
    assert (result.num_samples, result.problems) == (1, [])
    return made


def test_a_video_is_encoded_with_its_first_frame_as_the_image(folder, data_folder, clip):
    backbone = load_backbone(str(folder))
    (sample,) = read_shards([data_folder / "videos-videos.tar"], lambda problem: pytest.fail(problem))
    video = read_clip(clip, 9).to_video((64, 96))
    given = backbone.embed_images(video[:, :, :1], 9)
    assert sample.condition.keys() == {"text", *given.tensors}
    for name, tensor in given.tensors.items():
        assert torch.equal(sample.condition[name], tensor[0])


def test_a_trained_lora_is_read_back_by_the_stock_pipeline(folder, data_folder, tmp_path):
    seen = []

    class Watched(MotionDistillation):
        def training_step(self, batch, batch_index):
            seen.append(batch.condition)
            return super().training_step(batch, batch_index)

    module = Watched(
        load_backbone(str(folder)), rank=2, optimizer=partial(AdamW, lr=1e-2), shift=3.0, prompt_dropout=0.5
    )
    data = DistillationDataModule(data_folder, "samples", batch_size=2, batches_per_epoch=4)
    Trainer(accelerator="cpu", max_steps=4, **QUIET).fit(module, data)
    names = module.backbone.family.expert_names
    adapters = module.read_adapters()
    assert all(each.abs().max() > 0 for adapter in adapters.values() for each in adapter.weights.values())
    training = Training("samples", num_steps=4, batch_size=2, shape=(9, 64, 96), shift=3.0)
    deviations = export_lora(adapters, module, tmp_path, training)
    assert len(deviations) == 2 * len(names)
    card = (tmp_path / "README.md").read_text()
    assert "image-to-video" in card
    assert "load_image" in card
    fused = load_backbone(str(folder), loras={str(tmp_path): 1.0})
    latents, condition = job_noise(module.backbone.latent_shape(9, 64, 96), [7]), Condition(seen[0].tensors)[[0]]
    with torch.no_grad():
        for timestep in (950.0, 300.0):
            found, expected = (each.velocity(latents, timestep, condition) for each in (fused, module.backbone))
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
