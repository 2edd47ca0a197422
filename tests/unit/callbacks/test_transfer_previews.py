import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fastvmt_pl.callbacks import TransferPreviews
from fastvmt_pl.errors import UserError
from fastvmt_pl.method.sampling import flow_matching_sigmas


def pictures(folder):
    events = EventAccumulator(str(folder)).Reload()
    return {name: [picture.step for picture in events.Images(name)] for name in events.Tags()["images"]}


def test_predictions_and_motion_of_every_job_are_shown(fit, tmp_path):
    logger = TensorBoardLogger(tmp_path, "logs", "")
    prompts = ("a red cross on a navy background", "a green circle on a gray background")
    options = {"num_guided_steps": 3, "num_inner_steps": 2, "clips": 2, "prompts": prompts}
    fit([TransferPreviews(every_n_steps=2)], trainer={"logger": logger}, **options)
    names = ["prediction/0", "prediction/1", "motion/0", "motion/1"]
    assert pictures(tmp_path / "logs") == {name: [4, 6] for name in names}  # after the second and the last guided step


def test_the_last_prediction_equals_the_result(fit):
    module = fit(num_steps=2, num_guided_steps=2)
    torch.testing.assert_close(module.predicted, module.result.latents)
    assert float(flow_matching_sigmas(2, 3.0)[-1]) == 0


def test_previews_change_nothing_and_are_skipped_without_a_logger(fit, tmp_path, monkeypatch):
    plain = fit()
    watched = fit([TransferPreviews(1)], trainer={"logger": TensorBoardLogger(tmp_path)})
    assert torch.equal(plain.result.latents, watched.result.latents)
    monkeypatch.setattr("fastvmt_pl.callbacks.transfer_previews.motion_of", lambda *_: pytest.fail("looked"))
    fit([TransferPreviews(1)], trainer={"logger": CSVLogger(tmp_path)})


def test_previews_every_zero_steps_are_refused():
    with pytest.raises(UserError, match="every_n_steps"):
        TransferPreviews(0)
