import os

import pytest
import torch

from fastvmt_pl.datamodules import Clip, ToyWorld

os.environ["HF_HUB_OFFLINE"] = "1"  # no test asks a hub


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


@pytest.fixture(scope="session")
def toy_clips():
    """Short clips of one moving object, of five frames, which make three latent frames on wan-tiny."""
    world = ToyWorld(11, num_objects=1, camera=False, paths=("linear",))
    return [Clip(world[i].frames[:5], 8.0, f"toy {i}") for i in range(3)]
