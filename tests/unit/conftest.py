import resource
from contextlib import contextmanager
from functools import partial

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from fastvmt_pl.backbones import DiffusersBackbone
from fastvmt_pl.datamodules import MotionDataModule
from fastvmt_pl.method.motion_transfer import MotionTransfer
from fastvmt_pl.objectives import AttentionFlow

MOTION = AttentionFlow(block=2, window=3)
FULL_BYTES = 4096
"""How large a file can get on what stands for a full disk."""
PROMPTS = ("a red cross on a navy background",)


@pytest.fixture
def full_disk():
    """A context in which no file grows beyond a few kilobytes; keep it short, pytest's own log may be such a file."""

    @contextmanager
    def limited():
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (FULL_BYTES, limits[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    return limited


@pytest.fixture(scope="module")
def backbone():
    return DiffusersBackbone("wan-tiny")


@pytest.fixture
def fit(backbone, toy_clips, tmp_path):
    """Run a short transfer; keyword arguments go to the module."""

    def run(
        callbacks=(),
        clips=1,
        prompts=PROMPTS,
        seed=0,
        ckpt_path=None,
        trainer=None,
        again=None,
        motion=MOTION,
        images=None,
        **options,
    ):
        settings = {
            "optimizer": partial(torch.optim.AdamW, lr=0.01),
            "num_steps": 4,
            "num_guided_steps": 2,
            "num_inner_steps": 4,
            "guidance_scale": 3.0,
            "negative_prompt": "",
            "strength": 1.0,
            "shift": 3.0,
            "baseline": False,
        } | options
        module = MotionTransfer(backbone, **settings) if again is None else again
        data = MotionDataModule(
            toy_clips[:clips],
            prompts,
            images=images,
            seed=seed,
            num_frames=5,
            size=(16, 16),
            motion=motion,
            cache_dir=tmp_path / "cache",
        )
        trainer_settings = {
            "accelerator": "cpu",
            "max_epochs": settings["num_guided_steps"],
            "enable_checkpointing": any(isinstance(callback, ModelCheckpoint) for callback in callbacks),
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "logger": False,
        } | (trainer or {})
        Trainer(callbacks=list(callbacks), **trainer_settings).fit(module, data, ckpt_path=ckpt_path, weights_only=True)
        return module

    return run
