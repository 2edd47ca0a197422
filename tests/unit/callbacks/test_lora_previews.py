import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fastvmt_pl.callbacks import LoraExport, LoraPreviews, StopAtLeak
from fastvmt_pl.callbacks.lora_previews import Preview
from fastvmt_pl.clips import read_clip
from fastvmt_pl.datamodules import DistillationDataModule
from fastvmt_pl.distillation import Sample, write_shard
from fastvmt_pl.distillation.motion_distillation import MotionDistillation
from fastvmt_pl.distillation.shard_index import Shard, write_index
from fastvmt_pl.errors import UserError
from fastvmt_pl.lora import DIFFUSERS_FILE, ORIGINAL_FILE, LoraError
from fastvmt_pl.objectives import AttentionFlow

PROMPT = "a red cross on a navy background"


@pytest.fixture(scope="module")
def data_folder(backbone, toy_clips, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    condition = backbone.embed_prompts([PROMPT]).compact()
    latents = [backbone.encode(clip.to_video((16, 16)))[0] for clip in toy_clips[:2]]
    for name, clean in zip(("samples", "clip"), latents, strict=True):
        write_shard(folder / f"{name}.tar", [Sample(clean, condition, PROMPT)])
    write_index(folder, [Shard("samples.tar", "samples", 1), Shard("clip.tar", "clip", 1, sha256="abc")])
    return folder


@pytest.fixture
def train(backbone, data_folder, tmp_path):
    def run(*callbacks, epochs=2, ckpt_path=None, logger=False):
        module = MotionDistillation(backbone, rank=2, shift=3.0)
        trainer = Trainer(
            accelerator="cpu",
            max_epochs=epochs,
            callbacks=list(callbacks),
            enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
            enable_progress_bar=False,
            enable_model_summary=False,
            logger=logger,
            default_root_dir=tmp_path,
        )
        data = DistillationDataModule(data_folder, batch_size=1, batches_per_epoch=2)
        trainer.fit(module, data, ckpt_path=ckpt_path, weights_only=True)
        return module, trainer

    return run


def previews(**settings):
    motion = AttentionFlow(block=2, window=3)
    return LoraPreviews(
        [PROMPT, "a blue circle"], num_steps=1, shift=3.0, guidance_scale=2.0, motion=motion, **settings
    )


class Leaks(Callback):
    """Puts leaks of one's own into the previews, epoch by epoch."""

    def __init__(self, previews, *leaks):
        self.previews, self.leaks, self.adapters = previews, leaks, []

    def on_train_epoch_end(self, trainer, pl_module):
        last, leak = self.previews.last, self.leaks[trainer.current_epoch]
        self.previews.last = Preview(last.video, {**last.scores, "leak": leak})
        self.adapters.append({name: p.detach().clone() for name, p in pl_module.adapter.items()})


def test_previews_are_written_scored_and_logged(train, tmp_path):
    callback = previews()
    _, trainer = train(callback)
    assert sorted(path.name for path in (tmp_path / "previews").iterdir()) == ["epoch-0001.mp4", "epoch-0002.mp4"]
    assert callback.last.video == tmp_path / "previews" / "epoch-0002.mp4"
    frames = read_clip(callback.last.video, 5).frames
    assert frames.shape[1:] == (240, 3 * 240 + 2 * 30, 3)  # the clip and two prompts, with gaps
    assert set(callback.last.scores) == {"relative_attention_flow_error", "leak"}
    assert trainer.callback_metrics["preview/relative_attention_flow_error"] == pytest.approx(
        callback.last.scores["relative_attention_flow_error"]
    )
    assert 0 <= callback.last.scores["leak"] <= 1


def test_tensorboard_gets_pictures_and_scores(train, tmp_path):
    train(previews(), logger=TensorBoardLogger(tmp_path, "logs", ""))
    events = EventAccumulator(str(tmp_path / "logs")).Reload()
    assert [picture.step for picture in events.Images("preview")] == [2, 4]
    assert {"preview/relative_attention_flow_error", "preview/leak"} <= set(events.Tags()["scalars"])
    assert (tmp_path / "logs" / "previews" / "epoch-0001.mp4").exists()


def test_previewing_changes_no_weight(train):
    plain, watched = (train(*callbacks)[0].adapter for callbacks in ((), (previews(),)))
    assert all(torch.equal(plain[name], weight) for name, weight in watched.items())


def test_previews_follow_every_n_epochs(train, tmp_path):
    train(previews(folder=tmp_path / "here", every_n_epochs=2), epochs=3)
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["epoch-0002.mp4"]


def test_a_leak_stops_training_and_restores_the_adapter_before(train, tmp_path):
    callback = previews()
    leaks = Leaks(callback, 0.0, 0.05, 0.3, 0.0)
    module, trainer = train(callback, leaks, StopAtLeak(0.1), LoraExport(tmp_path / "lora"), epochs=4)
    assert trainer.current_epoch == 3
    for name, weight in module.adapter.items():
        assert torch.equal(weight, leaks.adapters[1][name])
        if "lora_B" in name:
            assert not torch.equal(weight, leaks.adapters[2][name])
    assert callback.last.scores["leak"] == 0.05
    assert "| preview: leak | 0.050 |" in (tmp_path / "lora" / "README.md").read_text()
    assert (tmp_path / "lora" / DIFFUSERS_FILE).exists()


class Breaks(Callback):
    """Makes weights of which no file can be verified."""

    def on_train_end(self, trainer, pl_module):
        for parameter in pl_module.adapter.values():
            parameter.data.fill_(torch.nan)


def test_a_lora_that_cannot_be_verified_is_kept_and_marked(train, tmp_path):
    folder = tmp_path / "lora"
    train(LoraExport(folder))
    assert (folder / "README.md").exists()
    with pytest.raises(LoraError, match=str(folder)):
        train(LoraExport(folder), Breaks(), epochs=1)
    assert {path.name for path in folder.iterdir()} == {DIFFUSERS_FILE, ORIGINAL_FILE, "UNVERIFIED.md"}
    assert all(weight.isnan().all() for weight in load_file(folder / DIFFUSERS_FILE).values())
    assert "Not verified" in (folder / "UNVERIFIED.md").read_text()


def test_a_stopped_run_stays_stopped_when_it_is_started_again(train, tmp_path):
    checkpoint = ModelCheckpoint(tmp_path / "checkpoints", save_last=True, save_top_k=0)
    callback = previews()
    leaks = Leaks(callback, 0.05, 0.3, 0.0)
    first, _ = train(callback, leaks, StopAtLeak(0.1), checkpoint, epochs=3)
    callback = previews()
    again, trainer = train(callback, StopAtLeak(0.1), epochs=3, ckpt_path=tmp_path / "checkpoints" / "last.ckpt")
    assert trainer.global_step == 4
    assert all(torch.equal(again.adapter[name], weight) for name, weight in first.adapter.items())
    assert callback.last.scores["leak"] == 0.05


def test_a_run_killed_after_a_leak_in_its_last_epoch_restores_the_adapter(train, tmp_path):
    checkpoint = ModelCheckpoint(tmp_path / "checkpoints", save_last=True, save_top_k=0)
    callback = previews()
    leaks = Leaks(callback, 0.05, 0.3)
    train(callback, leaks, StopAtLeak(0.1), checkpoint, epochs=2)
    again, _ = train(previews(), StopAtLeak(0.1), epochs=2, ckpt_path=tmp_path / "checkpoints" / "last.ckpt")
    assert all(torch.equal(again.adapter[name], weight) for name, weight in leaks.adapters[0].items())


def test_a_first_preview_that_leaks_is_an_error(train):
    callback = previews()
    with pytest.raises(RuntimeError, match=r"0\.1"):
        train(callback, Leaks(callback, 0.9), StopAtLeak(0.1))


def test_stopping_needs_previews(train):
    with pytest.raises(UserError, match="LoraPreviews"):
        train(StopAtLeak())


def test_impossible_settings_are_refused():
    for settings in ({"every_n_epochs": 0}, {"num_steps": 0}):
        with pytest.raises(UserError):
            LoraPreviews([PROMPT], **settings)
    with pytest.raises(UserError):
        LoraPreviews([])
    with pytest.raises(UserError, match=r"1\.5"):
        StopAtLeak(1.5)
