import pytest
import torch

from fastvmt_pl.datamodules import DistillationDataModule
from fastvmt_pl.distillation import Sample, write_shard
from fastvmt_pl.distillation.shard_index import Shard, write_index

SHAPE = (2, 3, 4, 4)


@pytest.fixture
def folder(tmp_path):
    """A data folder with two samples, and a clip shard that lost its only one."""
    write_shard(tmp_path / "a.tar", [Sample(torch.zeros(SHAPE), {"text": torch.ones(2, 4)}, "a")] * 2)
    write_index(tmp_path, [Shard("a.tar", "samples", 2), Shard("clip.tar", "clip", 0)])
    return tmp_path


def test_a_source_that_is_not_there_is_refused(folder):
    for source in ("clip", "mix"):
        with pytest.raises(ValueError, match="has no clip"):
            DistillationDataModule(folder, source).setup("fit")
    data = DistillationDataModule(folder, "samples")
    data.setup("fit")
    assert data.shape == SHAPE
    assert data.reference is None


@pytest.mark.parametrize(
    "setting",
    [{"clip_share": 0.0}, {"clip_share": 1.0}, {"batch_size": 0}, {"batches_per_epoch": 0}, {"num_workers": -1}],
)
def test_impossible_settings_are_refused(folder, setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        DistillationDataModule(folder, **setting)


def test_a_folder_of_nothing_usable_is_refused(folder):
    (folder / "a.tar").write_bytes(b"no tar file")
    with pytest.raises(ValueError, match=r"no sample of .* can be used: .*a\.tar"):
        DistillationDataModule(folder, "samples").setup("fit")
