from functools import partial
from shutil import copytree

import pytest
from torch.optim import AdamW

from fastvmt_pl.backbones import DiffusersBackbone
from fastvmt_pl.backbones.model_folder import BUNDLED
from fastvmt_pl.distillation.lora_card import Training, model_card
from fastvmt_pl.distillation.motion_distillation import MotionDistillation


@pytest.mark.parametrize(("given", "shown"), [(None, 8), (12.5, 12.5)])
def test_the_card_of_a_fine_tune_of_wan_tiny_has_its_frame_rate(tmp_path, given, shown):
    model = copytree(BUNDLED["wan-tiny"], tmp_path / "model")
    module = MotionDistillation(DiffusersBackbone(str(model)), rank=1, optimizer=partial(AdamW, lr=1e-3), shift=3.0)
    module.attach_adapter()
    training = Training("samples", num_steps=1, batch_size=1, shape=(5, 48, 48), shift=3.0, fps=given)
    card = model_card(module.read_adapters(), module, training)
    assert f"fps={shown})" in card
