from functools import partial

import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.optim import SGD, AdamW

from fastvmt_pl.backbones import DiffusersBackbone
from fastvmt_pl.datamodules import DistillationDataModule
from fastvmt_pl.distillation import Sample, write_shard
from fastvmt_pl.distillation.motion_distillation import MotionDistillation
from fastvmt_pl.distillation.shard_index import Shard, write_index
from fastvmt_pl.lora import without_lora
from fastvmt_pl.method.video_sampler import NonFiniteError

SHAPE = (8, 3, 4, 4)
PROMPTS = ("a red cross on a navy background", "a blue circle on a gray background")


@pytest.fixture(scope="module")
def data_folder(backbone, tmp_path_factory):
    """Four samples with trajectories in two shards, and a clip."""
    folder = tmp_path_factory.mktemp("data")
    draw = torch.Generator().manual_seed(0)
    samples = []
    for number in range(5):
        trajectory = torch.randn(5, *SHAPE, generator=draw)
        samples.append(
            Sample(
                trajectory[-1],
                backbone.embed_prompts([PROMPTS[number % 2]]).compact(),
                PROMPTS[number % 2],
                number,
                trajectory=trajectory,
                sigmas=torch.tensor([1.0, 0.9, 0.75, 0.5, 0.0]),
                guidance_scale=4.0,
            )
        )
    shards = {"a": samples[:2], "b": samples[2:4], "clip": samples[4:]}
    for name, some in shards.items():
        write_shard(folder / f"{name}.tar", some)
    write_index(folder, [Shard(f"{n}.tar", "clip" if n == "clip" else "samples", len(s)) for n, s in shards.items()])
    return folder


@pytest.fixture
def train(backbone, data_folder):
    """Train for some batches; keyword arguments go to the module, those of data and trainer to these."""

    def run(callbacks=(), steps=4, data=None, trainer=None, ckpt_path=None, **options):
        settings = {
            "backbone": backbone,
            "rank": 4,
            "optimizer": partial(AdamW, lr=1e-3),
            "num_warmup_steps": 2,
            "shift": 3.0,
        }
        module = MotionDistillation(**(settings | options))
        data = {"source": "mix", "batch_size": 2, "batches_per_epoch": 3} | (data or {})
        trainer = {
            "accelerator": "cpu",
            "max_steps": steps,
            "callbacks": list(callbacks),
            "enable_checkpointing": any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "logger": False,
        } | (trainer or {})
        Trainer(**trainer).fit(
            module, DistillationDataModule(data_folder, **data), ckpt_path=ckpt_path, weights_only=True
        )
        return module

    return run


def weights(module):
    return {name: p.detach().clone() for name, p in module.adapter.items()}


def assert_same(one, other, **tolerance):
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], **({"atol": 0, "rtol": 0} | tolerance))


def test_training_moves_the_adapter_alone(train, backbone):
    latents, text = torch.randn(1, *SHAPE), backbone.embed_prompts([PROMPTS[0]])
    with torch.no_grad(), without_lora(backbone.transformer):
        before = backbone.velocity(latents, 500.0, text)
    module = train()
    with torch.no_grad():
        assert not torch.equal(backbone.velocity(latents, 500.0, text), before)
        with without_lora(backbone.transformer):
            assert torch.equal(backbone.velocity(latents, 500.0, text), before)
    assert any(p.abs().sum() > 0 for name, p in module.adapter.items() if "lora_B" in name)
    assert module.num_batches == 4


@pytest.mark.parametrize("objective", ["flow_matching", "trajectory"])
def test_it_learns_a_few_videos_by_heart(train, objective):
    losses = []

    class Record(Callback):
        def on_train_batch_end(self, trainer, *args):
            losses.append(float(trainer.callback_metrics["loss"]))

    train(
        [Record()],
        steps=20,
        objective=objective,
        rank=16,
        optimizer=partial(AdamW, lr=1e-2),
        prompt_dropout=0.0,
        data={"source": "samples", "batch_size": 4},
    )
    assert sum(losses[-4:]) < 0.9 * sum(losses[:4])


@pytest.mark.parametrize("ema_decay", [None, 0.9])
def test_a_run_resumed_anywhere_gives_the_same_weights(train, tmp_path, ema_decay):
    options = {"dropout": 0.1, "ema_decay": ema_decay, "steps": 4, "trainer": {"accumulate_grad_batches": 1}}
    every = ModelCheckpoint(tmp_path, filename="{step}", save_top_k=-1, every_n_train_steps=1)
    whole = train([every], **options)
    kept = sorted(tmp_path.glob("*.ckpt"))
    assert len(kept) == 4
    for checkpoint in kept:
        resumed = train(ckpt_path=checkpoint, **options)
        assert_same(weights(resumed), weights(whole))
        if ema_decay is not None:
            for one, other in zip(resumed.ema.shadow_params, whole.ema.shadow_params, strict=True):
                assert torch.equal(one, other)


def test_a_checkpoint_holds_the_adapter_alone_and_no_pickle(train, tmp_path):
    module = train([ModelCheckpoint(tmp_path, save_last=True, save_top_k=0, every_n_train_steps=1)])
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert set(checkpoint["state_dict"]) == {f"adapter.{name}" for name in module.adapter}


def test_accumulated_batches_are_a_large_batch(train):
    sgd = {"optimizer": partial(SGD, lr=1.0), "num_warmup_steps": 0, "steps": 2}
    large = train(data={"batch_size": 4}, **sgd)
    parts = train(data={"batch_size": 2, "batches_per_epoch": 4}, trainer={"accumulate_grad_batches": 2}, **sgd)
    assert_same(weights(parts), weights(large), atol=1e-5, rtol=1e-4)


def test_a_checkpointed_backward_pass_gives_the_same_weights(train):
    plain = train()
    checkpointed = train(backbone=DiffusersBackbone(gradient_checkpointing=True))
    assert_same(weights(checkpointed), weights(plain), atol=1e-6, rtol=1e-5)


def test_half_precision_keeps_the_adapter_in_full(train):
    module = train(steps=1, backbone=DiffusersBackbone(dtype="bfloat16"), trainer={"precision": "bf16-mixed"})
    assert {p.dtype for p in module.adapter.values()} == {torch.float32}


def test_the_average_is_put_in_place_for_a_while(train):
    module = train(ema_decay=0.5)
    trained = weights(module)
    with module.for_sampling():
        for average, parameter in zip(module.ema.shadow_params, module.adapter.values(), strict=True):
            assert torch.equal(average, parameter)
        assert not torch.equal(next(iter(weights(module).values())), next(iter(trained.values())))
    assert_same(weights(module), trained)


def test_a_backbone_can_be_used_again(train, backbone):
    first = weights(train())
    assert_same(weights(train()), first)


class Damage(Callback):
    """Reports the same damaged shard with every batch."""

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        batch.problems.append("b.tar: damaged")


def test_what_is_skipped_is_named_once_and_counted(train):
    with pytest.warns(UserWarning, match=r"b\.tar: damaged") as warned:
        module = train([Damage()], steps=2)
    assert sum("b.tar" in str(warning.message) for warning in warned) == 1
    assert list(module.problems) == ["b.tar: damaged"]


def test_a_loss_that_is_not_finite_ends_the_run(train):
    with pytest.raises(NonFiniteError):
        train(optimizer=partial(SGD, lr=1e38), num_warmup_steps=0)


@pytest.mark.parametrize(
    "setting",
    [{"num_warmup_steps": -1}, {"shift": 0.0}, {"prompt_dropout": 1.0}, {"ema_decay": 1.0}],
)
def test_impossible_settings_are_refused(backbone, setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        MotionDistillation(backbone, **setting)
