import pytest

from fastvmt_pl.backbones.geometry import Geometry, WithGeometry

RULES = {"num_blocks": 2, "head_dim": 8, "latent_channels": 4, "temporal_factor": 4, "spatial_factor": 8}


def model(**rules):
    found = WithGeometry()
    found.name, found.geometry, found.num_blocks = "a model", Geometry(**(RULES | rules)), 2
    return found


@pytest.mark.parametrize("rules", [{"frame_step": 4, "size_multiple": 16}, {"frame_step": 8, "size_multiple": 1}])
@pytest.mark.parametrize("patch_size", [(1, 2, 2), (2, 2, 4)])
@pytest.mark.parametrize("within", [(81, 480, 832), (40, 100, 130), (9, 64, 64)])
def test_what_is_made_within_a_size_is_allowed(rules, patch_size, within):
    found = model(patch_size=patch_size, **rules)
    video = found.geometry_within(*within)
    found.check_geometry(*video)
    assert all(0 < own <= largest for own, largest in zip(video, within, strict=True))
    assert found.video_shape(found.latent_shape(*video)) == video


def test_frames_of_tokens_may_span_several_of_latents():
    found = model(patch_size=(2, 2, 2), frame_step=8, size_multiple=1, num_padding_frames=1)
    latent_shape = found.latent_shape(17, 64, 96)
    assert latent_shape == (4, 6, 8, 12)
    assert found.num_token_frames(latent_shape[1]) == 3
    assert found.video_shape(latent_shape) == (17, 64, 96)
