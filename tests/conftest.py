import os

import pytest
import torch
from safetensors.torch import save_file

from fastvmt_pl.clips import Clip
from fastvmt_pl.toy import ToyWorld

os.environ["HF_HUB_OFFLINE"] = "1"  # no test asks a hub


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Keep tests, what they share, and processes that they start out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def pytest_collection_modifyitems(items):
    """Give slow tests more time than the others have."""
    for item in items:
        if item.get_closest_marker("slow") is not None:
            item.add_marker(pytest.mark.timeout(1800))


@pytest.fixture(autouse=True)
def _fixed_seed():
    state = torch.get_rng_state()
    torch.manual_seed(0)
    yield
    torch.set_rng_state(state)


@pytest.fixture
def write_lora():
    """Writes a LoRA of rank 2 for one layer of wan-tiny, whose weights are all of one value."""

    def write(path, value=1.0, inputs=144):
        layer = "diffusion_model.blocks.0.self_attn.q"
        halves = {"A": torch.full((2, inputs), value), "B": torch.full((144, 2), value)}
        save_file({f"{layer}.lora_{half}.weight": weight for half, weight in halves.items()}, path)
        return path

    return write


@pytest.fixture(scope="session")
def toy_clips():
    """Short clips of one moving object, of five frames, which make three latent frames on wan-tiny."""
    world = ToyWorld(11, num_objects=1, camera=False, paths=("linear",))
    return [Clip(world[i].frames[:5], 8.0, f"toy {i}") for i in range(3)]
