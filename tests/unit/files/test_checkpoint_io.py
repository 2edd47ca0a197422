import pytest
import torch

from fastvmt_pl.files.checkpoint_io import AtomicCheckpointIO


def test_a_failed_write_keeps_the_earlier_checkpoint(tmp_path):
    path, plugin = tmp_path / "run" / "last.ckpt", AtomicCheckpointIO()
    plugin.save_checkpoint({"step": 1}, path)
    with pytest.raises(Exception, match="pickle"):
        plugin.save_checkpoint({"latents": torch.zeros(3), "step": lambda: 2}, path)
    assert plugin.load_checkpoint(path, weights_only=True) == {"step": 1}
    assert [file.name for file in path.parent.iterdir()] == ["last.ckpt"]
